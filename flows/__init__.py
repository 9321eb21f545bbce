"""Prefect flows: they order the work and do none of it."""
