"""The contract of an engine, and the tiny models it is tried on."""
