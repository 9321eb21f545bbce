"""A registered engine whose files were copied to this host: what one process fetches and another one serves."""

from __future__ import annotations

import shutil
from pathlib import Path

from pydantic import Field

from slipway.decisions.staleness import require_fresh
from slipway.measure.example import EXAMPLE_FILE
from slipway.records import Evidence, Hardware, Record
from slipway.stores.registry import APPROVER_TAG, CHAMPION, DECISION_TAG, REASON_TAG, Registry


class Origin(Record):
    """How an engine came to be served: the alias that named it, and who decided what about it, and why.

    ``companions`` are the files that the registry keeps beside its evidence, by file name.
    """

    alias: str = CHAMPION
    decision: str | None = None
    approver: str | None = None
    reason: str | None = None
    companions: dict[str, Path] = Field(default_factory=dict)

    @property
    def example(self) -> Path | None:
        """Examples of the test set, and what this very engine file answered to them."""
        return self.companions.get(EXAMPLE_FILE)


class LocalEngine(Record):
    """Version ``version`` of the registered model ``name``; ``path`` is its engine file or directory.

    ``order`` tells the copies apart that one server makes in its life, the same version copied twice too.
    """

    order: int
    name: str
    version: str
    evidence: Evidence
    path: Path
    origin: Origin

    def __str__(self) -> str:
        """``NAME version VERSION``, as people are told."""
        return f"{self.name} version {self.version}"


def fetch(registry: Registry, name: str, alias: str, version: str, here: Hardware, folder: Path) -> LocalEngine:
    """Copy what ``version`` of the registered model ``name``, named by ``alias``, needs to be served into ``folder``.

    The folder's name is the order; whatever fails, nothing is left in it.

    Raises:
        BadInputError: there is no such version, or its engine is stale on the host ``here``.
        TamperedError: bytes differ from the digest that the evidence names.
        InfrastructureError: the registry cannot be reached, or the folder not be written.
    """
    try:
        found = registry.version(name, version)
        require_fresh(found.evidence, here)
        companions = registry.companions(name, version, folder / "beside")
        origin = Origin(
            alias=alias,
            decision=found.tags.get(DECISION_TAG),
            approver=found.tags.get(APPROVER_TAG),
            reason=found.tags.get(REASON_TAG),
            companions=companions,
        )
        path = registry.engine_path(name, version, folder / "engine")
        return LocalEngine(
            order=int(folder.name), name=name, version=version, evidence=found.evidence, path=path, origin=origin
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
