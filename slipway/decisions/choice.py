"""Which of the candidates on one target is chosen, which are tied with it, and which lie on the Pareto front."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from slipway.config import Objective
from slipway.decisions.gates import regression_gate
from slipway.decisions.throughput import setting_to_serve, setting_told
from slipway.records import Accuracy, Decision, Evidence, Interval, Latency, Record, Timing, Verdict

Percentile = Literal["p50", "p99"]


class Choice(Record):
    """The choice on one target, by digest.

    ``tied`` are the others as good as the chosen one, best tie-break first; ``pareto`` is the front over accuracy drop
    and tail latency, fastest first.
    """

    decision: Decision
    chosen: str | None
    tied: tuple[str, ...]
    pareto: tuple[str, ...]


class _Measured(Record):
    """A candidate with everything that choosing needs."""

    name: str
    digest: str
    size_bytes: int
    accuracy: Accuracy
    timing: Timing


def choose(objective: Objective, candidates: Sequence[Evidence]) -> Choice:
    """Of the candidates that passed, the best by ``objective``; ties go to accuracy, then size, then digest.

    Tied are those whose interval overlaps the best one's. ``latency_p50_ms`` is compared as the paired speed-up over
    the reference, ``latency_p99_ms`` by its own interval where it has one; the others have none and compare plainly,
    ``throughput_per_s`` as that of the setting to serve with, which keeps within the target's demand on latency.
    Accuracy is the lower drop, which holds for every metric. Without a choice: INCONCLUSIVE if a candidate was or lacks
    the objective, else FAIL if one failed, else ERROR if one broke, else SKIPPED; no candidates at all are ERROR.
    """
    pareto = pareto_front(candidates)
    ranked: list[tuple[Interval, _Measured]] = []
    left_out: list[Evidence] = []
    for evidence in candidates:
        measured = _measured(evidence)
        score = None if measured is None else _score(objective, measured)
        if evidence.decision.verdict is Verdict.PASS and measured is not None and score is not None:
            ranked.append((score, measured))
        else:
            left_out.append(evidence)
    if not ranked:
        return Choice(decision=_no_choice(objective, left_out), chosen=None, tied=(), pareto=pareto)
    best, _ = max(ranked, key=lambda pair: pair[0].value)
    chosen, *others = sorted((m for score, m in ranked if score.upper >= best.lower), key=_tie_break)
    reasons = [f"{chosen.name} is best by {objective} of {len(ranked)} that passed: {_told(objective, chosen)}"]
    reasons += [f"{m.name} is tied ({_told(objective, m)}); ties go to accuracy, then size" for m in others]
    reasons += [_why_not(objective, e) for e in left_out if e.decision.verdict is Verdict.PASS]
    return Choice(
        decision=Decision(verdict=Verdict.PASS, reasons=tuple(reasons)),
        chosen=chosen.digest,
        tied=tuple(dict.fromkeys(m.digest for m in others if m.digest != chosen.digest)),
        pareto=pareto,
    )


def front_percentile(candidates: Iterable[Evidence]) -> Percentile:
    """The latency that the front is drawn over: the p99; the p50 only where no candidate has the samples for a p99."""
    timings = [evidence.timing for evidence in candidates if evidence.accuracy and evidence.timing]
    return "p50" if all(timing.latency.p99_ms is None for timing in timings) else "p99"


def latency_at(percentile: Percentile, latency: Latency) -> float | None:
    """Latency in ms at ``percentile``; None where its samples do not support it."""
    return latency.p99_ms if percentile == "p99" else latency.p50_ms


def hold_against(champion: str | None, choice: Choice, candidates: Sequence[Evidence], max_regression: float) -> Choice:
    """``choice``, unless it puts another candidate in place of the ``champion`` that took part and is faster.

    A champion that was no candidate has been a gate of each of them already. One that was is the best of those that
    passed, or did not pass this time; then what is chosen instead must not be much slower either. The ratio of their
    speed-ups is taken with the outer bounds of both.
    """
    by_digest = {evidence.digest: evidence for evidence in candidates if evidence.digest is not None}
    if champion not in by_digest or choice.chosen in {None, champion}:
        return choice
    own, other = by_digest[champion].timing, by_digest[str(choice.chosen)].timing
    over = None if own is None or other is None else _ratio(other.speedup, own.speedup)
    gate = regression_gate(max_regression, over, "; ".join(by_digest[champion].decision.reasons))
    if gate is None or gate.verdict is Verdict.PASS:
        return choice
    reasons = tuple(f"{by_digest[str(choice.chosen)].spec} in place of the champion: {one}" for one in gate.reasons)
    decision = Decision(verdict=gate.verdict, reasons=(*reasons, *choice.decision.reasons))
    return choice.model_copy(update={"decision": decision, "chosen": None})


def _ratio(numerator: Interval, denominator: Interval) -> Interval:
    return Interval(
        value=numerator.value / denominator.value,
        lower=numerator.lower / denominator.upper,
        upper=numerator.upper / denominator.lower,
    )


def pareto_front(candidates: Sequence[Evidence]) -> tuple[str, ...]:
    """Digests of those to which no other is at least as good in drop and `front_percentile`, and better in one.

    A candidate without that percentile is not compared: it is neither on the front nor keeps another from it.
    """
    percentile = front_percentile(candidates)
    points: dict[str, tuple[float, float]] = {}
    for measured in filter(None, map(_measured, candidates)):
        latency_ms = latency_at(percentile, measured.timing.latency)
        if latency_ms is not None:
            points[measured.digest] = (latency_ms, measured.accuracy.drop)
    front = []
    lowest_drop = float("inf")
    for point in sorted(set(points.values())):
        if point[1] < lowest_drop:
            lowest_drop = point[1]
            front += sorted(digest for digest, own in points.items() if own == point)
    return tuple(front)


def _measured(evidence: Evidence) -> _Measured | None:
    digest, size, accuracy, timing = evidence.digest, evidence.size_bytes, evidence.accuracy, evidence.timing
    if digest is None or size is None or accuracy is None or timing is None:
        return None
    return _Measured(name=str(evidence.spec), digest=digest, size_bytes=size, accuracy=accuracy, timing=timing)


def _score(objective: Objective, candidate: _Measured) -> Interval | None:
    """The objective with its interval, higher is better; None where it was not measured."""
    tail_ms = candidate.timing.latency.p99_interval_ms
    if objective == "latency_p50_ms":
        return candidate.timing.speedup
    if objective == "latency_p99_ms" and tail_ms is not None:
        return Interval(value=-tail_ms.value, lower=-tail_ms.upper, upper=-tail_ms.lower)
    value = _plain_value(objective, candidate)
    if value is None:
        return None
    higher = value if objective == "throughput_per_s" else -value
    return Interval(value=higher, lower=higher, upper=higher)


def _plain_value(objective: Objective, candidate: _Measured) -> float | None:
    match objective:
        case "latency_p50_ms":
            return candidate.timing.latency.p50_ms
        case "latency_p99_ms":
            return candidate.timing.latency.p99_ms
        case "throughput_per_s":
            setting = setting_to_serve(candidate.timing)
            return None if setting is None else setting.examples_per_s
        case "size_bytes":
            return candidate.size_bytes


def _tie_break(candidate: _Measured) -> tuple[float, int, str]:
    return candidate.accuracy.drop, candidate.size_bytes, candidate.digest


def _told(objective: Objective, candidate: _Measured) -> str:
    speedup, drop = candidate.timing.speedup, f"{candidate.accuracy.metric} drop {candidate.accuracy.drop:.4f}"
    if objective == "latency_p50_ms":
        return f"{speedup.value:.2f}x the reference's speed ({speedup.lower:.2f} to {speedup.upper:.2f}), {drop}"
    setting = setting_to_serve(candidate.timing)
    if objective == "throughput_per_s" and setting is not None:
        return f"{setting_told(setting)}, {drop}"
    tail_ms = candidate.timing.latency.p99_interval_ms if objective == "latency_p99_ms" else None
    within = f" ({tail_ms.lower:g} to {tail_ms.upper:g})" if tail_ms else ""
    return f"{objective} {_plain_value(objective, candidate):g}{within}, {drop}"


def _no_choice(objective: Objective, candidates: Sequence[Evidence]) -> Decision:
    if not candidates:
        return Decision(verdict=Verdict.ERROR, reasons=("no candidate was asked for",))
    verdicts = {e.decision.verdict for e in candidates}
    order = (Verdict.INCONCLUSIVE, Verdict.FAIL, Verdict.ERROR, Verdict.SKIPPED)
    verdict = Verdict.INCONCLUSIVE if Verdict.PASS in verdicts else next(v for v in order if v in verdicts)
    return Decision(verdict=verdict, reasons=tuple(_why_not(objective, e) for e in candidates))


def _why_not(objective: Objective, evidence: Evidence) -> str:
    verdict, reasons = evidence.decision.verdict, evidence.decision.reasons
    if verdict is Verdict.PASS:
        return f"{evidence.spec} passed but cannot be ranked: {_unranked(objective, evidence.timing)}"
    return f"{evidence.spec} {verdict}" + (f": {reasons[0]}" if reasons else "")


def _unranked(objective: Objective, timing: Timing | None) -> str:
    if objective == "throughput_per_s" and timing is not None and timing.throughput:
        best = max(timing.throughput, key=lambda one: one.examples_per_s)
        return f"no setting answers within the p99 demanded of the target; the best of all is {setting_told(best)}"
    return f"{objective} was not measured on it"
