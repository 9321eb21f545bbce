"""What every way to serve an engine asks of its file: whether it is the one of its evidence, and how it ran best."""

from __future__ import annotations

from pathlib import Path

from slipway.errors import TamperedError
from slipway.records import Evidence
from slipway.stores.objects import digest_of


def require_proven(path: Path, evidence: Evidence, remedy: str) -> None:
    """Nothing, if the file or directory ``path`` is the one that was measured; ``remedy`` says what to do otherwise.

    Raises:
        TamperedError: its sha256 is not the one in its evidence.
    """
    if digest_of(path) != evidence.digest:
        raise TamperedError(f"{path} is not the engine file of its evidence; {remedy}")


def threads_of(evidence: Evidence) -> int:
    """The threads with which a single call was fastest."""
    return int(evidence.options.get("threads", 1))
