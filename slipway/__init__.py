"""Slipway: from a registered PyTorch model version to the fastest engine that provably keeps its accuracy."""

__version__ = "0.1.0"
