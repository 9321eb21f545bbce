"""What MLflow's webhook tells: checked, decided on, and kept until Prefect has it."""
