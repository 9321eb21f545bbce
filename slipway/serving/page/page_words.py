"""What is known of a served model, in words for the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import quote

from slipway.records import Accuracy, Evidence, Hardware, TensorSpec, Timing
from slipway.serving.answering.local_engine import Origin
from slipway.serving.answering.served import ServedModel, run_options
from slipway.serving.http.inference_json import metadata_of
from slipway.stores.registry import CHAMPION


class Tile(NamedTuple):
    """One measured figure."""

    name: str
    value: str
    note: str


class Fact(NamedTuple):
    """One line about the engine; ``code`` is for what is copied rather than read."""

    name: str
    value: str
    code: bool = False


class Gate(NamedTuple):
    """A gate's verdict, and its reasons as one sentence."""

    name: str
    verdict: str
    reasons: str


class Tensor(NamedTuple):
    """One input or output."""

    way: str
    name: str
    datatype: str
    shape: str


@dataclass(frozen=True)
class Shown:
    """A served model as the template shows it; ``examples`` holds the label of each stored one."""

    name: str
    quoted: str
    version: str
    alias: str
    variant: str
    engine: str
    opened_s: float
    opened: str
    opened_iso: str
    approval: str
    reason: str | None
    answered: str
    failed: str
    mean: str
    tiles: tuple[Tile, ...]
    gates: tuple[Gate, ...]
    facts: tuple[Fact, ...]
    tensors: tuple[Tensor, ...]
    examples: Sequence[int | float | None]


def shown(model: ServedModel, examples: Sequence[int | float | None]) -> Shown:
    """All that the page tells of ``model``, nothing of it escaped yet."""
    evidence, counted = model.evidence, model.statistics
    opened = datetime.fromtimestamp(model.opened, UTC)
    mean_ms = counted.success.ns / counted.success.count / 1e6 if counted.success.count else None
    return Shown(
        name=model.name,
        quoted=quote(model.name, safe=""),
        version=model.version,
        alias=model.origin.alias,
        variant=evidence.spec.variant,
        engine=evidence.spec.engine,
        opened_s=model.opened,
        opened=f"{opened:%-d %B %Y, %H:%M} UTC",
        opened_iso=opened.isoformat(timespec="seconds"),
        approval=approval(model.origin),
        reason=model.origin.reason,
        answered=f"{counted.success.count:,}",
        failed=f"{counted.fail.count:,}",
        mean="" if mean_ms is None else f", in {mean_ms:.3g} ms on average",
        tiles=tuple(tiles(evidence)),
        gates=tuple(
            Gate(name, gate.verdict.value, "; ".join(gate.reasons)) for name, gate in sorted(evidence.gates.items())
        ),
        facts=tuple(facts(evidence)),
        tensors=(*_tensors("input", model.inputs), *_tensors("output", model.outputs)),
        examples=examples,
    )


def approval(origin: Origin) -> str:
    """By whose word it serves."""
    if origin.approver is not None:
        return f"{(origin.decision or 'decided on').capitalize()} by {origin.approver}"
    if origin.alias == CHAMPION:
        return "Promoted by the release's gates"
    return "It passed the release's gates; nobody has decided on it yet"


def tiles(evidence: Evidence) -> Iterator[Tile]:
    """The figures that were measured; what was not is left out."""
    if evidence.timing is not None:
        yield from _times(evidence.timing)
    if evidence.accuracy is not None:
        yield _accuracy(evidence.accuracy)


def facts(evidence: Evidence) -> Iterator[Fact]:
    """What the engine is, made from what, for which hardware."""
    options = run_options(evidence)
    yield Fact("Engine", " ".join(filter(None, (evidence.spec.engine, evidence.engine_version))))
    precision = ", ".join(f"{count} in {name}" for name, count in evidence.executed_precision.items())
    yield Fact("Variant", f"{evidence.spec.variant}{f' (layers: {precision})' if precision else ''}")
    yield Fact("Runs with", f"{_counted(options.threads, 'thread')}, {_counted(options.streams, 'stream')}")
    yield Fact("Target", f"{evidence.spec.target}: {hardware(evidence.hardware)}")
    if evidence.size_bytes is not None:
        yield Fact("Size", f"{evidence.size_bytes / 1e6:.2f} MB")
    yield Fact("Made from", evidence.model_uri, code=True)
    yield Fact("sha256", evidence.digest or "", code=True)
    yield Fact("Test data", f"md5 {evidence.data_md5}", code=True)
    yield Fact("Code", evidence.code_revision, code=True)


def hardware(found: Hardware) -> str:
    """The hardware that was measured on."""
    parts = [found.cpu, _counted(found.cores, "core"), *found.isa]
    return ", ".join([found.gpu, *parts] if found.gpu else parts)


def _times(timing: Timing) -> Iterator[Tile]:
    latency, reference, speedup = timing.latency, timing.reference_latency, timing.speedup
    yield Tile(
        "Speed-up",
        f"{speedup.value:.2f}x",
        f"{speedup.lower:.2f} to {speedup.upper:.2f}, over eager PyTorch in fp32",
    )
    how = f"batch {latency.batch}, {_counted(latency.threads, 'thread')}"
    yield Tile("Latency, median", _ms(latency.p50_ms), f"{how}; eager PyTorch {_ms(reference.p50_ms)}")
    if latency.p99_ms is not None:
        note = f"of {latency.samples:,} calls"
        yield Tile("Latency, 99th percentile", _ms(latency.p99_ms), note)
    best = timing.best_throughput
    if best is not None:
        how = f"batch {best.batch}, {_counted(best.threads, 'thread')}, {_counted(best.streams, 'stream')}"
        yield Tile("Throughput", f"{best.examples_per_s:,.0f} /s", how)


def _accuracy(accuracy: Accuracy) -> Tile:
    bound = f"at most {accuracy.drop_upper:+.4f} at {accuracy.confidence:.0%} confidence"
    reference = f"reference {accuracy.reference_value:.4f}; drop {accuracy.drop:+.4f}, {bound}"
    return Tile(f"Accuracy ({accuracy.metric})", f"{accuracy.value:.4f}", f"{reference}, {accuracy.n:,} examples")


def _ms(value: float) -> str:
    return f"{value:.3f} ms" if value < 10 else f"{value:.1f} ms"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _tensors(way: str, specs: tuple[TensorSpec, ...]) -> Iterator[Tensor]:
    for told in metadata_of(specs):
        sizes = ", ".join("any" if size == -1 else str(size) for size in told["shape"])
        yield Tensor(way, told["name"], told["datatype"], f"[{sizes}]")
