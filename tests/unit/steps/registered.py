"""Engines in a registry, as a release would have left them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slipway.records import Decision, Verdict
from slipway.stores.objects import digest_of
from slipway.stores.registry import RegisteredEngine, Registry
from tests.fakes.evidence import evidence, release

GATES = {"accuracy": Decision(verdict=Verdict.PASS, reasons=("drop 0.001 <= 0.010",))}


def register_engine(
    registry: Registry, folder: Path, name: str, content: bytes = b"engine", **changes: Any
) -> RegisteredEngine:
    """Register ``NAME.TARGET`` with an engine file of this content; ``changes`` are made to its passing evidence."""
    model, _, target = name.partition(".")
    file = folder / "engine.onnx"
    file.write_bytes(content)
    found = evidence(digest_of(file), **({"gates": GATES} | changes))
    found = found.model_copy(update={"spec": found.spec.model_copy(update={"target": target})})
    recorded = registry.record_release(release(found, model=model), {str(found.digest): file}, [])
    return registry.version(name, registry.register(name, recorded, found))
