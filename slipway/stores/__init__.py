"""Where things are kept: model versions and evidence in MLflow, data under DVC, engine files by digest."""
