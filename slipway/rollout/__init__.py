"""The canary: traffic is shared between champion and challenger, observed, and moved by what was decided."""
