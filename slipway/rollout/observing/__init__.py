"""What is seen of a rollout: logs, answers and labels."""
