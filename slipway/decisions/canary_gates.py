"""The canary's gates: what latencies, errors and mirrored answers conclude, however often they are looked at."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slipway.decisions.confidence_sequences import share_bounds
from slipway.decisions.dependence import LEAST_KEPT, Sample, spread, spread_over
from slipway.decisions.paired_bets import Pairs, loss_lower_bound, loss_upper_bound
from slipway.decisions.sudden_failures import failing_evidence
from slipway.records.base import Decision, Verdict
from slipway.records.rollout import Reading

LATENCY, SLO, ERRORS, ACCURACY, DRIFT = "latency_p95", "latency_p99_slo", "errors", "accuracy", "drift"
_P95, _P99 = 0.95, 0.99
_NO_OUTCOMES: NDArray[np.int8] = np.empty(0, np.int8)


@dataclass(frozen=True)
class Levels:
    """How often a gate may err by chance, over all looks: when it lets promote, and when it rolls back."""

    promote: float
    roll_back: float


def latency_gate(
    champion_ms: NDArray[np.float64], challenger_ms: NDArray[np.float64], margin: float, levels: Levels
) -> Reading:
    """Whether the challenger's p95 is at most 1 + ``margin`` times the champion's.

    PASS when U_challenger <= (1 + margin) L_champion, FAIL when L_challenger > (1 + margin) U_champion, by the bounds
    of what `spread` keeps. Either is wrong with probability at most its level, at any number of looks: one of the two
    bounds compared would have to be wrong. The figures tell each bound at the level of the comparison that it takes
    part in; None is no bound yet.
    """
    if not len(challenger_ms) or not len(champion_ms):
        silent = "challenger" if not len(challenger_ms) else "champion"
        figures: dict[str, float | None] = {"champion_n": len(champion_ms), "challenger_n": len(challenger_ms)}
        return _reading(LATENCY, Verdict.INCONCLUSIVE, (f"no answer of the {silent} to compare yet",), figures)
    champion, challenger = spread(champion_ms, _P95), spread(challenger_ms, _P95)
    least, _ = champion.bounds(_P95, 2, levels.promote)
    _, most = challenger.bounds(_P95, 2, levels.promote)
    _, champion_most = champion.bounds(_P95, 2, levels.roll_back)
    challenger_least, _ = challenger.bounds(_P95, 2, levels.roll_back)
    own, other, times = f"p95 {_range(challenger_least, most)}", _range(least, champion_most), f"{1 + margin:g} times"
    if most <= (1 + margin) * least:
        verdict, told = Verdict.PASS, f"{own} is within {times} the champion's, {other}"
    elif challenger_least > (1 + margin) * champion_most:
        verdict, told = Verdict.FAIL, f"{own} exceeds {times} the champion's, {other}"
    else:
        verdict, told = Verdict.INCONCLUSIVE, f"{own} may be on either side of {times} the champion's, {other}"
    counted = f"n={challenger.n:,} against {champion.n:,}"
    figures = {
        "champion_lower_ms": _finite(least),
        "champion_upper_ms": _finite(champion_most),
        "challenger_lower_ms": _finite(challenger_least),
        "challenger_upper_ms": _finite(most),
        "champion_ms": _quantile(champion.ordered),
        "challenger_ms": _quantile(challenger.ordered),
        "champion_n": champion.n,
        "challenger_n": challenger.n,
        "champion_block": champion.block,
        "challenger_block": challenger.block,
        "margin": margin,
    }
    reasons = (f"{told} ({counted})", *_told_of("champion", champion), *_told_of("challenger", challenger))
    return _reading(LATENCY, verdict, reasons, figures)


def slo_gate(latencies_ms: NDArray[np.float64], slo_p99_ms: float, levels: Levels) -> Reading:
    """Whether at most 1% of the challenger's answers take longer than ``slo_p99_ms``.

    A binomial e-process: the mixture of `admissible_counts`, over how many were in time. It errs either way with
    probability at most the level, since with fewer in time than 99% a count above its range only gets rarer.
    """
    if not len(latencies_ms):
        return _reading(SLO, Verdict.INCONCLUSIVE, ("no answer of the challenger yet",), {"slo_ms": slo_p99_ms, "n": 0})
    sample = spread_over(latencies_ms, slo_p99_ms)
    n, in_time = sample.n, int(np.searchsorted(sample.ordered, slo_p99_ms, side="right"))
    _, most = sample.counts(_P99, levels.promote)
    fewest, _ = sample.counts(_P99, levels.roll_back)
    found = f"{n - in_time:,} of {n:,} took over {slo_p99_ms:g} ms"
    if in_time > most:
        verdict, told = Verdict.PASS, f"{found}, which settles that under 1% do"
    elif in_time < fewest:
        verdict, told = Verdict.FAIL, f"{found}, which settles that over 1% do"
    else:
        verdict, told = Verdict.INCONCLUSIVE, f"{found}, which does not settle on which side of 1% it is"
    figures: dict[str, float | None] = {
        "slo_ms": slo_p99_ms,
        "exceeded_share": (n - in_time) / n,
        "n": n,
        "block": sample.block,
    }
    return _reading(SLO, verdict, (told, *_told_of("challenger", sample)), figures)


@dataclass(frozen=True)
class Tally:
    """How many requests an arm had, and how many of them it failed to answer.

    Those that it ``refused`` as the client's mistake, by a code from 400 to 499, are none of them.
    """

    requests: int
    errors: int
    refused: int = 0

    @property
    def unanswered(self) -> Tally:
        """With what it refused for an error."""
        return Tally(self.requests + self.refused, self.errors + self.refused)

    @property
    def share(self) -> float:
        """The share of errors that was found; 0 of no requests."""
        return self.errors / self.requests if self.requests else 0.0


def error_gate(
    champion: Tally, challenger: Tally, margin: float, levels: Levels, outcomes: NDArray[np.int8] = _NO_OUTCOMES
) -> Reading:
    """Whether the challenger fails at most ``margin`` more of its requests than the champion, a share of all requests.

    The bounds are those of `share_bounds` at 2 / level, so that either arm's is wrong with probability at most half of
    it. PASS when U_challenger <= L_champion + margin, and refusals were not found to be more than the margin apart.
    Each of three FAILs, at a third of its level: L_challenger > U_champion + margin; the same with refusals for errors,
    for clients' mistakes come to both arms alike; and `failing_evidence` against U_champion + margin, which notices
    within some requests what the counts hide behind thousands of answers. Errors are taken to be independent; an outage
    that hits both arms is in both counts.
    """
    least, _ = share_bounds(champion.errors, champion.requests, 2 / levels.promote)
    _, most = share_bounds(challenger.errors, challenger.requests, 2 / levels.promote)
    each = levels.roll_back / 3
    challenger_least, champion_most = _apart(challenger, champion, each)
    refusing_least, refusing_most = _apart(challenger.unanswered, champion.unanswered, each)
    failing = failing_evidence(outcomes, champion_most + margin) >= -math.log(each)
    refusing = challenger.unanswered.share > champion.unanswered.share + margin
    found = f"{challenger.errors:,} of {challenger.requests:,} requests failed"
    beside = f"the champion's {champion.errors:,} of {champion.requests:,} and {margin:.2%}"
    refused = f"{challenger.refused:,} more were refused (4xx), the champion refused {champion.refused:,}"
    if challenger_least > champion_most + margin:
        verdict, told = Verdict.FAIL, f"{found}, at least {challenger_least:.2%} of all, more than {beside}"
    elif refusing_least > refusing_most + margin:
        verdict, told = Verdict.FAIL, f"{found}, at least {refusing_least:.2%} with those refused; {refused}"
    elif failing:
        verdict, told = Verdict.FAIL, f"{found}, and of the latest more than {beside}"
    elif not challenger.requests:
        verdict, told = Verdict.INCONCLUSIVE, "no request to the challenger yet"
    elif most <= least + margin and not refusing:
        verdict, told = Verdict.PASS, f"{found}, at most {most:.2%} of all, within {beside}"
    else:
        verdict, told = Verdict.INCONCLUSIVE, f"{found}, {challenger_least:.2%} to {most:.2%} of all; beside {beside}"
    figures: dict[str, float | None] = {
        "champion_lower": least,
        "champion_upper": champion_most,
        "challenger_lower": challenger_least,
        "challenger_upper": most,
        "champion_n": champion.requests,
        "challenger_n": challenger.requests,
        "margin": margin,
    }
    return _reading(ERRORS, verdict, (told, refused) if refusing and verdict is not Verdict.FAIL else (told,), figures)


def _apart(challenger: Tally, champion: Tally, level: float) -> tuple[float, float]:
    """The least share of errors of one, and the largest of the other."""
    least, _ = share_bounds(challenger.errors, challenger.requests, 2 / level)
    _, most = share_bounds(champion.errors, champion.requests, 2 / level)
    return least, most


@dataclass(frozen=True)
class Mirrored:
    """Mirrored requests: how many, how many of them differ in the top-1 answer, and what labels tell of them.

    ``differed`` is None where answers were not compared, ``settled`` how many of those that differ have a label.
    """

    requests: int
    differed: int | None
    labelled: int
    gained: int
    lost: int
    settled: int
    missing: int

    def at_worst(self) -> Pairs:
        """With every answer that differs without a label a loss; without a comparison, every label missing."""
        if self.differed is None:
            same = self.labelled - self.gained - self.lost
            return Pairs(self.gained, self.lost + self.missing, same)
        unknown = self.differed - self.settled
        return Pairs(self.gained, self.lost + unknown, self.requests - self.gained - self.lost - unknown)

    def known(self) -> Pairs:
        """Without the answers that differ and have no label."""
        if self.differed is None:
            return Pairs(self.gained, self.lost, self.labelled - self.gained - self.lost)
        unknown = self.differed - self.settled
        return Pairs(self.gained, self.lost, self.requests - self.gained - self.lost - unknown)


def accuracy_gate(mirrored: Mirrored, margin: float, levels: Levels) -> Reading:
    """Whether the challenger's top-1 accuracy is at most ``margin`` below the champion's.

    Where both answer the same, neither gains: only answers that differ need a label. To pass, each of these without one
    counts as lost. So without any label it is P(top-1 disagree) <= margin that passes; with some, however many are
    missing and why, chance alone passes a worse challenger with probability at most the level. To roll back, labels
    have to tell of losses, those without one are left out: that holds at its level where a missing label tells nothing
    of what it would have said. Answers that differ never roll back by themselves.

    Where answers were not compared, every missing label counts as lost, and one not yet due as not seen.
    """
    at_worst = mirrored.at_worst()
    upper = loss_upper_bound(at_worst, levels.promote)
    lower = loss_lower_bound(mirrored.known(), levels.roll_back)
    figures: dict[str, float | None] = {
        "loss_lower": lower,
        "loss_upper": upper,
        "mirrored": mirrored.requests,
        "disagreed": mirrored.differed,
        "labelled": mirrored.labelled,
        "gained": mirrored.gained,
        "lost": mirrored.lost,
        "labels_missing": mirrored.missing,
        "counted_as_lost": at_worst.lost,
        "margin": margin,
    }
    found = _accuracy_found(mirrored, at_worst)
    if not mirrored.requests and not mirrored.labelled:
        told = "no mirrored request: nothing tells of accuracy, with labels or without; set canary.shadow"
        return _reading(ACCURACY, Verdict.INCONCLUSIVE, (told,), figures)
    if upper <= margin:
        return _reading(ACCURACY, Verdict.PASS, (f"loses at most {upper:.4f}, within {margin:g}: {found}",), figures)
    if lower > margin:
        return _reading(ACCURACY, Verdict.FAIL, (f"loses at least {lower:.4f}, over {margin:g}: {found}",), figures)
    told = f"loses {max(lower, -1):.4f} to {upper:.4f}, which does not settle {margin:g}: {found}"
    return _reading(ACCURACY, Verdict.INCONCLUSIVE, (told,), figures)


def _accuracy_found(mirrored: Mirrored, at_worst: Pairs) -> str:
    differ = "" if mirrored.differed is None else f"{mirrored.differed:,} of {mirrored.requests:,} answers differ, "
    labels = f"{mirrored.gained:,} gained and {mirrored.lost:,} lost of {mirrored.labelled:,} labelled"
    unknown = at_worst.lost - mirrored.lost
    return f"{differ}{labels}" + (f", {unknown:,} without a label counted as lost" if unknown else "")


def drift_gate(drift: Decision) -> Reading:
    """Drift as a reading that holds: whatever is not PASS is INCONCLUSIVE, for the challenger is not its cause."""
    verdict = Verdict.PASS if drift.verdict is Verdict.PASS else Verdict.INCONCLUSIVE
    return _reading(DRIFT, verdict, drift.reasons or (f"drift was judged {drift.verdict}",), {})


def _told_of(arm: str, sample: Sample) -> tuple[str, ...]:
    """What keeps a sample from concluding as much as it seems to."""
    few = f"{sample.n:,} of the {arm}'s answers count, fewer than {LEAST_KEPT} conclude nothing"
    blocked = f"the {arm}'s latencies depend on those before: one of {sample.block} counts"
    return tuple(told for told, true in ((blocked, sample.block > 1), (few, sample.n < LEAST_KEPT)) if true)


def _range(lower: float, upper: float) -> str:
    least = "0" if math.isinf(lower) else f"{lower:.4g}"
    return f"{least} to {'any' if math.isinf(upper) else f'{upper:.4g}'} ms"


def _quantile(ordered: NDArray[np.float64]) -> float:
    """The p95 that was found: the smallest value that 95% do not exceed."""
    return float(ordered[math.ceil(_P95 * len(ordered)) - 1])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _reading(gate: str, verdict: Verdict, reasons: tuple[str, ...], figures: dict[str, float | None]) -> Reading:
    return Reading(gate=gate, decision=Decision(verdict=verdict, reasons=reasons), figures=figures)
