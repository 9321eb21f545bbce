"""Gates: rules over what was measured, each with a verdict and its reasons in words and figures."""

from __future__ import annotations

import math
from collections.abc import Mapping

from slipway.config import AccuracyParams, SloParams
from slipway.decisions.paired import MOST_EXAMPLES, examples_to_decide
from slipway.records import Accuracy, Decision, Interval, Timing, Verdict

P99_SAMPLES = 662  # MLPerf LoadGen's early-stopping minimum for a 99th percentile
BYTES_PER_MB = 1_000_000
_SEVERITY = (Verdict.PASS, Verdict.SKIPPED, Verdict.INCONCLUSIVE, Verdict.FAIL, Verdict.ERROR)


def accuracy_gate(policy: AccuracyParams, accuracy: Accuracy) -> Decision:
    """PASS when the drop's upper bound is within ``max_drop``, FAIL when its lower bound is above, else INCONCLUSIVE.

    ERROR when the bounds answer another question than the policy's: another metric or confidence, or not a number.
    """
    found, asked = (accuracy.metric, accuracy.confidence), (policy.metric, policy.confidence)
    if found != asked:
        told = "{} at {:g}".format
        return _decision(Verdict.ERROR, f"policy asks for {told(*asked)}, found {told(*found)}; validate again")
    name, level, limit = accuracy.metric, f"{accuracy.confidence * 100:g}%", f"max_drop {policy.max_drop:.4f}"
    lower, upper = accuracy.drop_lower, accuracy.drop_upper
    if math.isnan(lower) or math.isnan(upper):
        return _decision(Verdict.ERROR, f"{name} drop has no bounds (n={accuracy.n}); look at the outputs for NaN")
    if upper <= policy.max_drop:
        reason = f"{name} drop <= {upper:.4f} (bound at {level}) is within {limit} (n={accuracy.n})"
        return _decision(Verdict.PASS, reason)
    if lower > policy.max_drop:
        reason = f"{name} drop >= {lower:.4f} (bound at {level}) exceeds {limit} (n={accuracy.n})"
        return _decision(Verdict.FAIL, reason)
    needed = examples_to_decide(accuracy, policy.max_drop)
    advice = (
        f"the drop sits on the margin, more than {MOST_EXAMPLES:,} examples would be needed; choose another max_drop"
        if needed is None
        else f"about {needed:,} examples would decide if the drop stays {accuracy.drop:.4f}"
    )
    bounds = f"{name} drop is between {lower:.4f} and {upper:.4f} (bounds at {level})"
    return _decision(Verdict.INCONCLUSIVE, f"{bounds}, on both sides of {limit} (n={accuracy.n}); {advice}")


def timing_gate(timing: Timing) -> Decision:
    """INCONCLUSIVE when the windows of candidate or reference never settled, else PASS; the host's load is told."""
    host = timing.host_load
    load = f"load {host.load_1m_before:.1f} before, {host.load_1m_after:.1f} after, steal {host.steal_share:.1%}"
    if _settled(timing):
        return _decision(Verdict.PASS, f"latency settled over {timing.latency.samples} samples ({load})")
    return _decision(Verdict.INCONCLUSIVE, f"latency never settled ({load}); measure again on a quieter host")


def slo_gates(slo: SloParams, timing: Timing, size_bytes: int) -> dict[str, Decision]:
    """One decision per demand of ``slo``, by the demand's name; times that never settled decide nothing.

    Throughput is that of the best batch size; 1 MB is 1e6 bytes.
    """
    gates: dict[str, Decision] = {}
    if slo.latency_p99_ms is not None:
        gates["latency_p99_ms"] = _latency_p99(slo.latency_p99_ms, timing)
    if slo.throughput_per_s is not None:
        gates["throughput_per_s"] = _throughput(slo.throughput_per_s, timing)
    if slo.size_mb is not None:
        size_mb = size_bytes / BYTES_PER_MB
        gates["size_mb"] = _at_most("size", size_mb, slo.size_mb, "MB")
    return gates


def regression_gate(max_regression: float, over_champion: Interval | None) -> Decision | None:
    """Whether the candidate is at most ``max_regression`` (a share) slower than the champion; None without a champion.

    ``over_champion`` is champion latency over candidate latency, measured as a pair: above 1 the candidate is faster.
    """
    if over_champion is None:
        return None
    least = 1 - max_regression
    speed = f"{over_champion.value:.3f}x the champion's ({over_champion.lower:.3f} to {over_champion.upper:.3f})"
    if over_champion.lower >= least:
        return _decision(Verdict.PASS, f"speed is {speed}, at least {least:.3f}x")
    if over_champion.upper < least:
        return _decision(Verdict.FAIL, f"speed is {speed}, below {least:.3f}x")
    return _decision(Verdict.INCONCLUSIVE, f"speed is {speed}, on both sides of {least:.3f}x; measure again for longer")


def combine(gates: Mapping[str, Decision]) -> Decision:
    """The worst verdict, in the order ERROR, FAIL, INCONCLUSIVE, SKIPPED, PASS; no gate at all is ERROR.

    The reasons, each led by its gate's name, are those of every gate that did not pass, worst first; of all when all
    passed.
    """
    if not gates:
        return _decision(Verdict.ERROR, "no gate was evaluated")
    worst_first = sorted(gates.items(), key=lambda item: -_SEVERITY.index(item[1].verdict))
    verdict = worst_first[0][1].verdict
    told = [item for item in worst_first if verdict is Verdict.PASS or item[1].verdict is not Verdict.PASS]
    reasons = [f"{name}: {reason}" for name, gate in told for reason in gate.reasons or (gate.verdict.value,)]
    return _decision(verdict, *reasons)


def _latency_p99(limit_ms: float, timing: Timing) -> Decision:
    p99_ms, samples = timing.latency.p99_ms, timing.latency.samples
    if p99_ms is None:
        reason = f"p99 latency needs {P99_SAMPLES} samples, found {samples}; measure for longer"
        return _decision(Verdict.INCONCLUSIVE, reason)
    return _if_settled(timing, _at_most("p99 latency", p99_ms, limit_ms, "ms"))


def _throughput(least_per_s: float, timing: Timing) -> Decision:
    if not timing.throughput_per_s:
        return _decision(Verdict.INCONCLUSIVE, f"throughput was not measured, {least_per_s:g}/s demanded; measure it")
    batch, best = max(timing.throughput_per_s.items(), key=lambda item: item[1])
    verdict, word = (Verdict.PASS, "meets") if best >= least_per_s else (Verdict.FAIL, "is below")
    reason = f"throughput {best:.4g}/s at batch {batch} {word} the {least_per_s:g}/s demanded"
    return _if_settled(timing, _decision(verdict, reason))


def _at_most(what: str, value: float, limit: float, unit: str) -> Decision:
    verdict, word = (Verdict.PASS, "is within") if value <= limit else (Verdict.FAIL, "exceeds")
    return _decision(verdict, f"{what} {value:.4g} {unit} {word} the {limit:g} {unit} demanded")


def _if_settled(timing: Timing, decision: Decision) -> Decision:
    if _settled(timing):
        return decision
    return _decision(Verdict.INCONCLUSIVE, *(f"{reason}, but latency never settled" for reason in decision.reasons))


def _settled(timing: Timing) -> bool:
    return timing.latency.settled and timing.reference_latency.settled


def _decision(verdict: Verdict, *reasons: str) -> Decision:
    return Decision(verdict=verdict, reasons=reasons)
