"""Check the set-up: versions, registry, disk, engines, data, and registered engines that are stale."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from slipway.config import TargetParams
from slipway.decisions.staleness import rebuild_command, stale
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
    registry: Registry,
    root: Path,
    data: Iterable[Path],
    targets: Mapping[str, Callable[[], TargetParams]],
    engines: Mapping[str, Hardware | None],
) -> list[Check]:
    """All checks, each independent of the others.

    ``targets`` gives each target as a release does when it has checked it, or raises as that does; ``engines`` are the
    registered names whose versions serve, each with the hardware that it serves on, if it is known.
    """
    checks: dict[str, Callable[[], str]] = {
        "versions": check_versions,
        "disk": partial(check_disk, root),
        "engines": check_engines,
        "registry": partial(check_registry, registry),
        **{f"data {path}": partial(check_data, path) for path in data},
        **{f"target {name}": partial(check_target, checked) for name, checked in targets.items()},
        **{f"engine {name}": partial(check_registered, registry, name, hardware) for name, hardware in engines.items()},
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
    """At least one engine beside the reference is installed and runs here."""
    usable = [a.engine for a in availabilities() if a.available and a.runs]
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


def check_target(checked: Callable[[], TargetParams]) -> str:
    """A release would start on the target, and something that it builds runs where it is measured."""
    target = checked()
    if target.work_pool is not None:
        return f"{', '.join(target.engines)} on a worker of pool {target.work_pool}"
    found = [a for a in availabilities() if a.engine in target.engines]
    if not any(a.runs for a in found):
        reasons = "; ".join(f"{a.engine}: {a.reason}" for a in found)
        raise BadInputError(f"nothing that it builds runs on this host, so nothing can be chosen ({reasons})")
    return ", ".join(a.engine if a.runs else f"{a.engine} (builds only)" for a in found)


def check_registered(registry: Registry, name: str, hardware: Hardware | None) -> str:
    """No version of ``name`` that an alias names (champion, challenger, previous) is stale on ``hardware``.

    None is hardware that is not this host's: nothing here can tell.
    """
    try:
        aliases = registry.aliases(name)
    except BadInputError:  # nothing is registered under this name yet
        aliases = {}
    if not aliases:
        return "none yet"
    if hardware is None:
        return f"{_told(aliases)} of another host; run `slipway doctor` where the target's workers run"
    fresh, old = dict[str, str](), list[str]()
    commands = dict[str, None]()
    for alias, version in sorted(aliases.items()):
        evidence = registry.version(name, version).evidence
        if reasons := stale(evidence, hardware):
            old.append(f"{alias} version {version} is stale: {', '.join(reasons)}")
            commands[rebuild_command(evidence)] = None
        else:
            fresh[alias] = version
    if old:
        raise BadInputError(f"{'; '.join(old)}; run `{'` and `'.join(commands)}` here to build anew")
    return f"{_told(fresh)}, measured on such a host as this"


def _told(aliases: Mapping[str, str]) -> str:
    return ", ".join(f"{alias} version {version}" for alias, version in sorted(aliases.items()))
