"""Pure decisions: numbers and records in, bounds and verdicts out; no clocks, no I/O, no logs."""
