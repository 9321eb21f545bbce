"""Where rollouts are kept, and who may move them."""
