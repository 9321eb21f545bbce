"""Kinds of network that have to go through every export, variant and engine without special cases."""
