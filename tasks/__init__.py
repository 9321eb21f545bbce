"""Prefect tasks: one step each, as policy around one library call."""
