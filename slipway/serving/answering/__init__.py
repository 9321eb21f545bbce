"""What answers: engines opened, their queues, and what their inputs look like."""
