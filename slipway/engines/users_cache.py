"""Where engines keep what a build learns for the builds after it: in the user's cache."""

from __future__ import annotations

import os
import re
from pathlib import Path


def in_users_cache(engine: str, *told: str, suffix: str) -> Path:
    """The file of ``engine`` for what is ``told``: versions, hardware; it need not exist."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = "-".join(re.sub(r"[^\w.]+", "-", one) for one in told)
    return Path(home) / "slipway" / engine / f"{name}{suffix}"
