"""The commands people type: thin, each with --json and --help, and the exit codes of the design."""

from slipway.cli.main import main

__all__ = ["main"]
