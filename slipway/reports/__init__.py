"""A release as people and tools read it: tables, a report, plots, JSON and CSV."""
