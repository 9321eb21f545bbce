"""Whether a model's inputs have drifted from the data that it was calibrated on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from slipway.records import Decision, InputSummary, Verdict

STABLE, DRIFTED = 0.1, 0.25  # the usual reading of a PSI: up to the first nothing has changed, beyond the second much
LEAST_EXAMPLES = 200
LEAST_SHARE = 1e-4
BY_CHANCE = 0.001


@dataclass(frozen=True)
class Observed:
    """Values of one input in ``examples`` examples: finite ones by bin, shape (bins,), and how many are not finite."""

    counts: NDArray[np.int64]
    nonfinite: int
    examples: int


@dataclass(frozen=True)
class Shift:
    """How far one input has moved, over ``examples`` examples: its PSI, and what that may reach by chance alone."""

    psi: float
    by_chance: float
    examples: int


def psi(expected: InputSummary, observed: Observed) -> float:
    """The population stability index of an input, from 0 for the same shares.

    PSI = sum_i (o_i - e_i) ln(o_i / e_i) over the bins' shares observed and expected, the symmetric Kullback-Leibler
    divergence (Siddiqi, Credit Risk Scorecards, 2006; Jeffreys 1946). Values that are not finite are one bin more. A
    share below 0.0001 counts as that: an empty bin would make the sum infinite.
    """
    before, now = _shares(expected, observed)
    return float(np.sum((now - before) * np.log(now / before)))


def chance_bound(expected: InputSummary, observed: Observed) -> float:
    """What the PSI of examples of the same distribution exceeds with a probability of 0.001.

    With B bins, N examples observed and M expected, PSI / (1/N + 1/M) is then nearly chi-squared with B - 1 degrees of
    freedom (Yurdakul & Naranjo, J. Risk Model Validation 14(4), 2020). Examples are counted, not their values, which
    are not independent of each other within one: so the bound is rather too high.
    """
    before, now = _shares(expected, observed)
    bins = int(np.count_nonzero(np.maximum(before, now) > LEAST_SHARE))
    sizes = 1 / max(observed.examples, 1) + 1 / max(expected.examples, 1)
    return float(chi2.ppf(1 - BY_CHANCE, max(bins - 1, 1))) * sizes


def shift(expected: InputSummary, observed: Observed) -> Shift:
    """How far an input has moved."""
    return Shift(psi(expected, observed), chance_bound(expected, observed), observed.examples)


def input_drift(name: str, found: Shift) -> Decision:
    """PASS up to a PSI of 0.25; beyond it FAIL, unless that may be chance or fewer than 200 examples came."""
    if found.examples < LEAST_EXAMPLES:
        reason = f"input {name}: too few examples to tell drift ({found.examples} of {LEAST_EXAMPLES})"
        return Decision(verdict=Verdict.INCONCLUSIVE, reasons=(reason,))
    told = f"input {name}: PSI {found.psi:.3f} over {found.examples} examples"
    if found.psi <= DRIFTED:
        moved = f"stable, at most {STABLE}" if found.psi <= STABLE else f"moved somewhat, at most {DRIFTED}"
        return Decision(verdict=Verdict.PASS, reasons=(f"{told}: {moved}",))
    if found.psi <= found.by_chance:
        reason = f"{told}: above {DRIFTED}, and so few examples may reach {found.by_chance:.3f} by chance"
        return Decision(verdict=Verdict.INCONCLUSIVE, reasons=(f"{reason}; calibrate on more",))
    return Decision(verdict=Verdict.FAIL, reasons=(f"{told}: drifted, above {DRIFTED}",))


def drift(shifts: Mapping[str, Shift]) -> Decision:
    """The worst of all inputs, with its reasons; without any input it is INCONCLUSIVE."""
    found = [input_drift(name, one) for name, one in shifts.items()]
    for verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS):
        reasons = tuple(reason for one in found if one.verdict is verdict for reason in one.reasons)
        if reasons:
            return Decision(verdict=verdict, reasons=reasons)
    return Decision(verdict=Verdict.INCONCLUSIVE, reasons=("no input is summarized, so that drift is unknown",))


def _shares(expected: InputSummary, observed: Observed) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shares of all bins, that of values that are not finite last; each at least 0.0001."""
    before = np.append(np.array(expected.shares) * (1 - expected.nonfinite), expected.nonfinite)
    counts = np.append(observed.counts, observed.nonfinite)
    return np.maximum(before, LEAST_SHARE), np.maximum(counts / max(int(counts.sum()), 1), LEAST_SHARE)
