"""The commands people type: thin, each with --json and --help, and the exit codes of the design."""

from __future__ import annotations

from slipway.cli.ending import INTERRUPTED_EXIT_CODE


def main() -> None:
    """Run the command line; who interrupts it while it is being imported sees no traceback either."""
    try:
        from slipway.cli import commands
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED_EXIT_CODE) from None
    commands.run()
