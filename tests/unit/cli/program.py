"""What came of one command."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ended:
    """A command's exit code and what it printed."""

    code: int
    stdout: str
    stderr: str

    @property
    def object(self) -> dict[str, Any]:
        """The one JSON object on stdout; anything else there fails the test."""
        found = json.loads(self.stdout)
        assert isinstance(found, dict)
        return found
