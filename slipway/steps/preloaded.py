"""Imported by the server from which the processes of steps are forked, and by nothing else."""

from __future__ import annotations

import warnings

import torch  # noqa: F401 - every step needs it, and it takes seconds to import

# Each child runs the main module of its parent again, whose imports the server has made.
warnings.filterwarnings("ignore", r"'.*' found in sys\.modules after import of package", RuntimeWarning)
