"""The engine file of NVIDIA's runtimes: their plan, and a label that says what it is and what it wants."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

from slipway.engines.checks import bad_file
from slipway.engines.zip_members import opened, read_stored
from slipway.records import Record, Signature

LABEL, PLAN = "slipway.json", "engine.plan"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that zip knows: the same plan gives the same bytes whenever it is written


class Label(Record):
    """What a plan is: by which engine and version it was built, for which compute capabilities and signature.

    A call with more than ``max_batch`` examples has to be made in parts. ``version_compatible`` says that later
    versions run it too, ``dla_core`` which accelerator of a Jetson it was built for.
    """

    engine: str
    version: str
    capabilities: tuple[str, ...]
    signature: Signature
    max_batch: int
    version_compatible: bool = False
    dla_core: int | None = None


def write_file(out: Path, label: Label, plan: Any) -> None:
    """Write ``plan`` (bytes, or a buffer of the runtime's) with its label, and its sha256 in that."""
    digest = hashlib.sha256(plan).hexdigest()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(LABEL, EPOCH), _Sealed(label=label, sha256=digest).model_dump_json())
        archive.writestr(zipfile.ZipInfo(PLAN, EPOCH), memoryview(plan))


def read_file(engine: str, path: Path) -> tuple[Label, bytes]:
    """The label and the plan of a file that ``engine`` built, before the runtime sees any of it.

    Raises:
        BadInputError: it is none, it is damaged, or its plan is not the one that was written.
    """
    with opened(engine, path, f"a file of its own with {LABEL} inside") as archive:
        sealed = _Sealed.model_validate_json(read_stored(archive, LABEL))
        plan = read_stored(archive, PLAN)
    if sealed.label.engine != engine:
        raise bad_file(engine, path, "a file that this engine built")
    if hashlib.sha256(plan).hexdigest() != sealed.sha256:
        raise bad_file(engine, path, f"a plan whose sha256 is the one in its {LABEL}")
    return sealed.label, plan


class _Sealed(Record):
    label: Label
    sha256: str
