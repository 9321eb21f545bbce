"""``python -m slipway.cli``: the same as ``slipway``."""

from slipway.cli import main

main()
