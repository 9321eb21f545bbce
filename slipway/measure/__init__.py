"""Measurement: accuracy, parity, latency and hardware, of callables and processes that are handed in."""
