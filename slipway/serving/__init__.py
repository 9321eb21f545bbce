"""Ways to serve a registered engine."""
