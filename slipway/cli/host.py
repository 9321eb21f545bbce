"""``slipway targets`` and ``slipway doctor``: what this host can do, and whether the set-up is sound."""

from __future__ import annotations

from functools import partial

import typer

from slipway.cli.console import out, print_json, print_table
from slipway.cli.release import DEFAULT_PARAMS, JsonOption, ParamsOption
from slipway.config import Params, TargetParams, load_params
from slipway.engines import availabilities
from slipway.engines.base import Availability
from slipway.records import Hardware, Verdict
from slipway.steps.doctor import examine
from slipway.stores.registry import parse_model_uri
from slipway.wiring import check_targets, host_hardware, workshop

UNSOUND_EXIT_CODE = 5


def add_commands(app: typer.Typer) -> None:
    """Add ``targets`` and ``doctor``."""
    app.command()(targets)
    app.command()(doctor)


def targets(as_json: JsonOption = False) -> None:
    """This host's hardware, and each engine: available, or why not."""
    hardware, engines = host_hardware(), availabilities()
    if as_json:
        print_json(
            {"hardware": hardware.model_dump(mode="json"), "engines": [e.model_dump(mode="json") for e in engines]}
        )
        return
    out.print(f"{hardware.cpu}, {hardware.cores} cores, {hardware.memory_bytes / 2**30:.0f} GiB, {hardware.machine}")
    out.print(f"instructions: {', '.join(hardware.isa) or 'none known'}")
    caches = ", ".join(f"{name} {size // 1024} KiB" for name, size in hardware.caches.items())
    out.print(f"caches: {caches or 'none known'}; GPU: {_gpu(hardware)}")
    out.print(f"fingerprint {hardware.fingerprint[:12]}")
    print_table(
        ("engine", "available", "version", "reason"),
        [(e.engine, _word(e), e.version or "", _reason(e)) for e in engines],
    )


def _gpu(hardware: Hardware) -> str:
    known = (("compute capability", hardware.compute_capability), ("driver", hardware.driver))
    return ", ".join([hardware.gpu or "none", *(f"{what} {value}" for what, value in known if value)])


def _reason(found: Availability) -> str:
    """Why an engine is not available, or what it builds for, and how to get it where a package is all that it lacks."""
    reason = found.reason or ""
    if found.available or not found.extra or "pip install" in reason:
        return reason
    return f"{reason}; pip install 'slipway[{found.extra}]'"


def _word(found: Availability) -> str:
    if not found.available:
        return "no"
    return "yes" if found.runs else "builds only"


def doctor(params: ParamsOption = DEFAULT_PARAMS, as_json: JsonOption = False) -> None:
    """Check the set-up: versions, stores, data, engines, stale engines."""
    described, shop = load_params(params), workshop()
    data = [path for path in (described.data.test, described.data.calibration, described.data.training) if path]
    targets = {name: partial(_checked, described, name) for name in described.targets}
    model, here = parse_model_uri(described.model)[0], host_hardware()
    registered = {f"{model}.{name}": None if target.work_pool else here for name, target in described.targets.items()}
    checks = examine(shop.registry, shop.root, data, targets, registered)
    if as_json:
        print_json({"checks": [check.model_dump(mode="json") for check in checks]})
    else:
        print_table(
            ("check", "verdict", "found"), [(c.name, c.decision.verdict, c.decision.reasons[0]) for c in checks]
        )
    sound = all(check.decision.verdict is Verdict.PASS for check in checks)
    raise typer.Exit(0 if sound else UNSOUND_EXIT_CODE)


def _checked(params: Params, name: str) -> TargetParams:
    return check_targets(params, (name,)).targets[name]
