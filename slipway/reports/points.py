"""What the Pareto plot shows: one point per candidate and one per reference, accuracy drop against tail latency."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from slipway.decisions.choice import Percentile, front_percentile, latency_at, pareto_front
from slipway.records import Evidence, Latency, Record, Verdict

POINTS = 100
SHARES = ("top1", "topk", "macro_f1", "auroc", "cosine")
REFERENCE = "reference"


class Point(Record):
    """One mark: latency and its 95% interval in ms at ``percentile``, accuracy drop and its upper bound.

    ``label`` names the candidate, with its target where several are drawn. ``role`` is "chosen", "Pareto front",
    "dominated" or "reference"; the chosen one may be ``on_front`` too. Drops are ``in_points`` (percentage)
    for metrics that are shares, else in the metric's own unit.
    """

    label: str
    role: str
    on_front: bool
    verdict: Verdict | None
    metric: str
    target: str
    batch: int
    percentile: Percentile
    latency_ms: float
    latency_lower_ms: float
    latency_upper_ms: float
    in_points: bool
    drop: float
    drop_upper: float


def points(evidences: Sequence[Evidence], chosen: Collection[tuple[str, str]]) -> list[Point]:
    """What can be drawn of ``evidences``, candidates first and then each target's reference.

    ``chosen`` holds pairs of target and digest: several targets may share a file, and differ in everything measured.
    Latency is the p99, of all of them; the p50 only where none has the samples for a p99. Each target has its own
    front: latencies on different hardware do not compare.
    """
    percentile = front_percentile(evidences)
    targets = list(dict.fromkeys(evidence.spec.target for evidence in evidences))
    fronts = {target: pareto_front([e for e in evidences if e.spec.target == target]) for target in targets}
    candidates: list[Point] = []
    references: dict[str, Point] = {}
    for evidence in evidences:
        timing, on = evidence.timing, f" on {evidence.spec.target}" if len(targets) > 1 else ""
        if evidence.accuracy is None or timing is None:
            continue
        role = "Pareto front" if evidence.digest in fronts[evidence.spec.target] else "dominated"
        own = _point(evidence, timing.latency, percentile, f"{evidence.spec}{on}", role)
        if own is not None:
            is_chosen = (evidence.spec.target, evidence.digest) in chosen
            candidates.append(own.model_copy(update={"role": "chosen"}) if is_chosen else own)
        reference = _point(evidence, timing.reference_latency, percentile, f"{REFERENCE}{on}", REFERENCE)
        if reference is not None:
            references.setdefault(evidence.spec.target, reference)
    return candidates + (list(references.values()) if candidates else [])


def left_out(evidences: Sequence[Evidence]) -> list[str]:
    """The candidates that `points` cannot draw, by name."""
    percentile = front_percentile(evidences)
    return [
        str(e.spec)
        for e in evidences
        if e.accuracy is None or e.timing is None or latency_at(percentile, e.timing.latency) is None
    ]


def _point(evidence: Evidence, latency: Latency, percentile: Percentile, label: str, role: str) -> Point | None:
    accuracy, latency_ms = evidence.accuracy, latency_at(percentile, latency)
    if accuracy is None or latency_ms is None:
        return None
    within = latency.p99_interval_ms if percentile == "p99" else None
    scale = POINTS if accuracy.metric.split(":")[0] in SHARES else 1
    drop, upper = (0.0, 0.0) if role == REFERENCE else (accuracy.drop, accuracy.drop_upper)
    return Point(
        label=label,
        role=role,
        on_front=role == "Pareto front",
        verdict=None if role == REFERENCE else evidence.decision.verdict,
        metric=accuracy.metric,
        target=evidence.spec.target,
        batch=latency.batch,
        percentile=percentile,
        latency_ms=latency_ms,
        latency_lower_ms=min(within.lower, latency_ms) if within else latency_ms,
        latency_upper_ms=max(within.upper, latency_ms) if within else latency_ms,
        in_points=scale == POINTS,
        drop=drop * scale,
        # Drop and bound are summed in different orders: where all examples lose as much, rounding may swap the two.
        drop_upper=max(upper, drop) * scale,
    )
