"""Gates: rules over what was measured, each with a verdict and its reasons in words and figures."""

from __future__ import annotations

import math
from collections.abc import Mapping

from slipway.config import P99_SAMPLES, AccuracyParams, SloParams
from slipway.decisions.paired import BOOTSTRAP, MOST_EXAMPLES, examples_to_decide
from slipway.decisions.throughput import best_throughput, mean_latency_ms, setting_told, settings_of
from slipway.records import Accuracy, Decision, Interval, Scenario, Timing, Verdict

BYTES_PER_MB = 1_000_000
NOT_SHARES = ("mae", "rmse")
_SEVERITY = (Verdict.PASS, Verdict.SKIPPED, Verdict.INCONCLUSIVE, Verdict.FAIL, Verdict.ERROR)


def accuracy_gate(policy: AccuracyParams, accuracy: Accuracy) -> Decision:
    """PASS when the drop's upper bound is within the limit, FAIL when its lower bound is above it, else INCONCLUSIVE.

    The limit is ``max_drop`` or, if smaller, what ``min_ratio`` leaves: (1 - min_ratio) x the reference's value, which
    is taken as known. That is MLPerf's rule of 99% or 99.9% of the reference; an error (mae, rmse) may be as much
    higher, as MLPerf lets SDXL's FID rise to 102% of 23.48. A candidate given up before the end of the test set
    can only FAIL, or be validated again where its bound does not exceed today's limit.

    ERROR when the bounds answer another question than the policy's: another metric or confidence, not a number, or a
    share of a reference that is not above 0.
    """
    problem = _unanswerable(policy, accuracy)
    if problem:
        return _decision(Verdict.ERROR, problem)
    limits = _limits(policy, accuracy.reference_value)
    least = min(limit for limit, _ in limits)
    name, level, lower, upper = accuracy.metric, accuracy.confidence, accuracy.drop_lower, accuracy.drop_upper
    if accuracy.available is not None and accuracy.n < accuracy.available:
        return _given_up(accuracy, limits, least)
    few = _too_few(accuracy, least)
    if upper <= least and few is not None:
        found = f"<= {upper:.4f}, but {accuracy.n} examples cannot show a drop of {least:g}: {few:,} or more would"
        return _decision(Verdict.INCONCLUSIVE, f"{name} drop {found}{_changes(accuracy)}")
    if upper <= least:
        verdict, found = Verdict.PASS, f"<= {upper:.4f} (bound at {level * 100:g}%) is within {_rules(limits)}"
    elif lower > least:
        rules = _rules(limits, below=lower)
        verdict, found = Verdict.FAIL, f">= {lower:.4f} (bound at {level * 100:g}%) exceeds {rules}"
    else:
        rules = _rules(limits, below=upper)
        found = f"is between {lower:.4f} and {upper:.4f} (bounds at {level * 100:g}%), on both sides of {rules}"
        verdict = Verdict.INCONCLUSIVE
    advice = f"; {_advice(accuracy, least)}" if verdict is Verdict.INCONCLUSIVE else ""
    return _decision(verdict, f"{name} drop {found} (n={accuracy.n}){advice}{_changes(accuracy)}")


def _too_few(accuracy: Accuracy, limit: float) -> int | None:
    """How many examples a bootstrap needs before it may pass ``limit``; None if it has them, or needs no such number.

    A bootstrap resamples what it saw: where no answer changed it tells a bound of 0, however few examples there are.
    The rule of three (Hanley & Lippman-Hand 1983, JAMA 249:1743-1745) tells how many would have shown a change of
    ``limit`` at the confidence asked for. Errors that are not shares (mae, rmse) have no such number.
    """
    if accuracy.method != BOOTSTRAP or accuracy.metric in NOT_SHARES or limit >= 1:
        return None
    rarest = math.log(1 - accuracy.confidence) / math.log1p(-limit) if limit > 0 else math.inf
    needed = math.ceil(min(rarest, MOST_EXAMPLES))
    return needed if accuracy.n < needed else None


def _unanswerable(policy: AccuracyParams, accuracy: Accuracy) -> str | None:
    """Why these bounds cannot answer this policy."""
    found, asked = (accuracy.metric, accuracy.confidence), (policy.metric, policy.confidence)
    if found != asked:
        told = "{} at {:g}".format
        return f"policy asks for {told(*asked)}, found {told(*found)}; validate again"
    if math.isnan(accuracy.drop_lower) or math.isnan(accuracy.drop_upper):
        return f"{accuracy.metric} drop has no bounds (n={accuracy.n}); look at the outputs for NaN"
    if policy.min_ratio is not None and not accuracy.reference_value > 0:
        asked_share = f"policy asks for {policy.min_ratio:g} of the reference's {accuracy.metric}"
        return f"{asked_share}, found {accuracy.reference_value:g}, which has no shares; mend it or drop min_ratio"
    return None


def _limits(policy: AccuracyParams, reference_value: float) -> list[tuple[float, str]]:
    """How much may be lost by each rule, and the rule in words."""
    limits = [(policy.max_drop, f"max_drop {policy.max_drop:.4f}")]
    if policy.min_ratio is not None:
        lost = (1 - policy.min_ratio) * reference_value
        limits.append((lost, f"min_ratio {policy.min_ratio:g} (a drop of {lost:.4g} from {reference_value:.4g})"))
    return limits


def _rules(limits: list[tuple[float, str]], below: float = math.inf) -> str:
    return " and ".join(rule for limit, rule in limits if limit < below)


def _given_up(accuracy: Accuracy, limits: list[tuple[float, str]], least: float) -> Decision:
    bound = f"{accuracy.metric} drop >= {accuracy.drop_lower:.4f} (a bound for stopping early)"
    seen = f"given up after {accuracy.n:,} of {accuracy.available:,} examples"
    if accuracy.drop_lower > least:
        exceeded = _rules(limits, below=accuracy.drop_lower)
        return _decision(Verdict.FAIL, f"{bound} exceeds {exceeded}; {seen}{_changes(accuracy)}")
    return _decision(Verdict.INCONCLUSIVE, f"{bound} may be within {_rules(limits)}, but it was {seen}; validate again")


def _advice(accuracy: Accuracy, limit: float) -> str:
    needed = examples_to_decide(accuracy, limit)
    if needed is None:
        return (
            f"the drop sits on the margin, more than {MOST_EXAMPLES:,} examples would be needed; choose another margin"
        )
    return f"about {needed:,} examples would decide if the drop stays {accuracy.drop:.4f}"


def _changes(accuracy: Accuracy) -> str:
    """Flips and the worst class, where known."""
    flips = "" if accuracy.flips is None else f"; {accuracy.flips:,} answers changed"
    return flips + ("" if accuracy.worst_class is None else f"; worst is {accuracy.worst_class}")


def timing_gate(timing: Timing) -> Decision:
    """INCONCLUSIVE when the windows of candidate or reference never settled, else PASS.

    The host's load is told, and what MLPerf LoadGen found where it ran; that decides nothing here.
    """
    host = timing.host_load
    load = f"load {host.load_1m_before:.1f} before, {host.load_1m_after:.1f} after, steal {host.steal_share:.1%}"
    told = () if timing.scenario is None else (_scenario_told(timing.scenario),)
    if _settled(timing):
        return _decision(Verdict.PASS, f"latency settled over {timing.latency.samples} samples ({load})", *told)
    return _decision(Verdict.INCONCLUSIVE, f"latency never settled ({load}); measure again on a quieter host", *told)


def slo_gates(slo: SloParams, timing: Timing, size_bytes: int) -> dict[str, Decision]:
    """One decision per demand of ``slo``, by the demand's name; times that never settled decide nothing.

    Where MLPerf LoadGen ran its server scenario, that run's latency at percentile 99 is what the p99 demand is held
    against, and where it ran offline, that run's rate is the throughput, which no latency bounds by that scenario's
    own rules; an invalid run is INCONCLUSIVE. Otherwise the times are the interleaved ones, and the throughput is that
    of the best setting whose calls can be answered within the p99 demand. 1 MB is 1e6 bytes.
    """
    gates: dict[str, Decision] = {}
    scenario = timing.scenario.name if timing.scenario else None
    if slo.latency_p99_ms is not None:
        p99 = _server_p99 if scenario == "server" else _latency_p99
        gates["latency_p99_ms"] = p99(slo.latency_p99_ms, timing)
    if slo.throughput_per_s is not None:
        if scenario == "offline":
            gates["throughput_per_s"] = _offline_throughput(slo.throughput_per_s, timing)
        else:
            gates["throughput_per_s"] = _throughput(slo.throughput_per_s, slo.latency_p99_ms or math.inf, timing)
    if slo.size_mb is not None:
        size_mb = size_bytes / BYTES_PER_MB
        gates["size_mb"] = _at_most("size", size_mb, slo.size_mb, "MB")
    return gates


def regression_gate(
    max_regression: float, over_champion: Interval | None, no_champion: str | None = None
) -> Decision | None:
    """Whether the candidate is at most ``max_regression`` (a share) slower than the champion; None without a champion.

    ``over_champion`` is champion latency over candidate latency, measured as a pair: above 1 the candidate is faster.
    INCONCLUSIVE where there is a champion that could not be timed, for the reason ``no_champion``.
    """
    if over_champion is None:
        if no_champion is None:
            return None
        reason = f"the champion could not be timed: {no_champion}; measure again"
        return _decision(Verdict.INCONCLUSIVE, reason)
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
    """PASS when the p99 is within the limit; FAIL when it is above, and so is all of its interval where it has one.

    With 662 samples the interval reaches to about the slowest of them, so that a bound that must be met would hand the
    verdict to one hiccup of the host; hence the estimate itself passes, with the interval told. But a FAIL is final,
    and so needs the whole interval above the limit: between the two more samples would tell.
    """
    p99_ms, interval, samples = timing.latency.p99_ms, timing.latency.p99_interval_ms, timing.latency.samples
    if p99_ms is None:
        reason = f"p99 latency needs {P99_SAMPLES} samples, found {samples}; measure for longer"
        return _decision(Verdict.INCONCLUSIVE, reason)
    if interval is None:
        return _if_settled(timing, _at_most("p99 latency", p99_ms, limit_ms, "ms"))
    told = f"p99 latency {p99_ms:.4g} ms ({interval.lower:.4g} to {interval.upper:.4g} at 95%, {samples} samples)"
    demand = f"the {limit_ms:g} ms demanded"
    if p99_ms <= limit_ms:
        reaching = f", though its interval exceeds {demand}" if interval.upper > limit_ms else ""
        decision = _decision(Verdict.PASS, f"{told} is within {demand}{reaching}")
    elif interval.lower > limit_ms:
        decision = _decision(Verdict.FAIL, f"{told} exceeds {demand}")
    else:
        reason = f"{told} exceeds {demand}, which its interval does not settle; measure for longer or on a quieter host"
        decision = _decision(Verdict.INCONCLUSIVE, reason)
    return _if_settled(timing, decision)


def _server_p99(limit_ms: float, timing: Timing) -> Decision:
    assert timing.scenario is not None
    run, told, demand = timing.scenario, _scenario_told(timing.scenario), f"{limit_ms:g} ms at p99 demanded"
    if not run.valid or run.percentile != 99 or run.latency_ms is None:
        reason = f"{told}, decides nothing about the {demand}; raise latency.budget_s or lower latency.server_per_s"
        return _decision(Verdict.INCONCLUSIVE, reason)
    return _met(run.latency_ms <= limit_ms, told, demand)


def _offline_throughput(least_per_s: float, timing: Timing) -> Decision:
    assert timing.scenario is not None
    run, told, demand = timing.scenario, _scenario_told(timing.scenario), f"{least_per_s:g}/s demanded"
    if not run.valid:
        reason = f"{told}, decides nothing about the {demand}; raise latency.budget_s"
        return _decision(Verdict.INCONCLUSIVE, reason)
    return _met(run.examples_per_s >= least_per_s, told, demand)


def _met(met: bool, told: str, demand: str) -> Decision:
    verdict, word = (Verdict.PASS, "meets") if met else (Verdict.FAIL, "misses")
    return _decision(verdict, f"{told}, {word} the {demand}")


def _scenario_told(run: Scenario) -> str:
    """What LoadGen found, in one line."""
    latency = "" if run.latency_ms is None else f" p{run.percentile} {run.latency_ms:.4g} ms,"
    arrivals = "" if run.target_per_s is None else f" at {run.target_per_s:g} arrivals/s"
    valid = "valid" if run.valid else "INVALID by its own rules"
    return f"LoadGen {run.name}:{latency} {run.examples_per_s:.4g}/s{arrivals}, {run.queries:,} queries, {valid}"


def _throughput(least_per_s: float, limit_ms: float, timing: Timing) -> Decision:
    """Whether one setting meets both demands: the rate of one and the latency of another would serve nobody."""
    settings = settings_of(timing)
    if not settings:
        return _decision(Verdict.INCONCLUSIVE, f"throughput was not measured, {least_per_s:g}/s demanded; measure it")
    best, demand = best_throughput(settings, limit_ms), f"the {least_per_s:g}/s demanded"
    fastest = max(settings, key=lambda one: one.examples_per_s)
    if best is None:
        quickest = min(settings, key=mean_latency_ms)
        takes = f"the quickest, {setting_told(quickest)}, takes {mean_latency_ms(quickest):.4g} ms on average"
        reason = f"no throughput counts for {demand}, since no setting answers within {limit_ms:g} ms: {takes}"
        return _if_settled(timing, _decision(Verdict.FAIL, reason))
    verdict, word = (Verdict.PASS, "meets") if best.examples_per_s >= least_per_s else (Verdict.FAIL, "is below")
    reason = f"throughput {setting_told(best)} {word} {demand}"
    if mean_latency_ms(fastest) > limit_ms:
        takes = f"{mean_latency_ms(fastest):.4g} ms on average, over the {limit_ms:g} ms demanded"
        reason += f"; {setting_told(fastest)} does not count: it takes {takes}"
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
