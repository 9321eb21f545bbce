"""Check the set-up: versions, registry, disk, engines, data, and champions that were built for other hardware."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from slipway.engines import availabilities
from slipway.errors import BadInputError, SlipwayError
from slipway.records import Decision, Hardware, Record, Verdict
from slipway.stores.registry import Registry
from slipway.stores.tracking import verify

# From these versions on, Prefect installs cleanly and fails at run time (docs/decisions/0001-pins.md).
CEILINGS = {"fastapi": (0, 151), "sqlalchemy": (2, 1)}
FREE_BYTES_WANTED = 2 * 2**30


class Check(Record):
    """One check of the set-up, with its verdict and reasons."""

    name: str
    decision: Decision


def examine(
    registry: Registry, root: Path, data: Iterable[Path], engines: Iterable[str], hardware: Hardware
) -> list[Check]:
    """All checks, each independent of the others; ``engines`` are the registered names whose champions serve here."""
    checks: dict[str, Callable[[], str]] = {
        "versions": check_versions,
        "disk": partial(check_disk, root),
        "engines": check_engines,
        "registry": partial(check_registry, registry),
        **{f"data {path}": partial(check_data, path) for path in data},
        **{f"champion {name}": partial(check_champion, registry, name, hardware) for name in engines},
    }
    return [Check(name=name, decision=_decide(check)) for name, check in checks.items()]


def _decide(check: Callable[[], str]) -> Decision:
    try:
        return Decision(verdict=Verdict.PASS, reasons=(check(),))
    except SlipwayError as error:
        return Decision(verdict=Verdict.FAIL, reasons=(str(error),))


def check_versions() -> str:
    """The packages that are known to break Prefect silently are below their ceilings."""
    for name, ceiling in CEILINGS.items():
        version = importlib.metadata.version(name)
        if tuple(int(part) for part in version.split(".")[:2]) >= ceiling:
            wanted = ".".join(str(part) for part in ceiling)
            raise BadInputError(f"{name} {version} breaks Prefect at run time; install '{name}<{wanted}'")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("prefect", "mlflow", "dvc", "torch"))


def check_disk(root: Path) -> str:
    """There is room for engine files."""
    free = shutil.disk_usage(root).free
    if free < FREE_BYTES_WANTED:
        raise BadInputError(
            f"{free / 2**30:.1f} GiB free under {root}; a release wants {FREE_BYTES_WANTED / 2**30:.0f}"
        )
    return f"{free / 2**30:.0f} GiB free"


def check_engines() -> str:
    """At least one engine beside the reference is installed."""
    usable = [a.engine for a in availabilities() if a.available]
    if set(usable) <= {"torch", "torchscript"}:
        raise BadInputError("no engine beside PyTorch's own is installed; pip install 'slipway[onnxruntime,openvino]'")
    return ", ".join(usable)


def check_registry(registry: Registry) -> str:
    """The model registry answers."""
    registry.check()
    return "answers"


def check_data(path: Path) -> str:
    """The bytes of a data set are those that DVC tracks."""
    source = verify(path)
    return f"md5 {source.md5}, {source.files} files"


def check_champion(registry: Registry, name: str, hardware: Hardware) -> str:
    """What serves was built and measured on this hardware."""
    version = registry.champion(name)
    if version is None:
        return "none yet"
    measured_on = registry.version(name, version).evidence.hardware
    if measured_on.fingerprint != hardware.fingerprint:
        raise BadInputError(
            f"version {version} is stale: measured on {measured_on.cpu} ({measured_on.fingerprint[:12]}), this host is "
            f"{hardware.cpu} ({hardware.fingerprint[:12]}); run `slipway release` here to build it anew"
        )
    return f"version {version} was measured on this hardware"
