"""How many times faster one engine is than another, from rounds in which both were timed next to each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from slipway.errors import BadInputError
from slipway.measure.latency import Nanoseconds
from slipway.records import Interval

# What another start of the process moves a ratio by, as a share, beyond what opening the engine anew shows: where the
# libraries lie in memory stays the same as long as the process lives. Measured for
# docs/decisions/0005-open-engines-anew-in-every-round.md.
START_SPREAD = 0.01
_TRIMMED_SHARE = 0.2


def paired_speedup(
    reference_blocks: Sequence[Nanoseconds], candidate_blocks: Sequence[Nanoseconds], confidence: float = 0.95
) -> Interval:
    """The mean over rounds of the log ratio of the two block medians, without the extreme fifths, as a ratio again.

    The i-th blocks were run next to each other, so that the host's drift cancels in their ratio, each by an engine that
    was opened anew, so that the rounds differ by what memory layout does to an engine (Mytkowicz et al. 2009, ASPLOS)
    as much as by what the host does; Kalibera & Jones (2013, ISMM) show that repeating calls alone tells too narrow an
    interval. It is the t interval of the trimmed mean (Tukey & McLaughlin 1963, Sankhya A 25, pages 331-352), which a
    slow spell in one round neither moves nor blows up, widened by `START_SPREAD` on both sides.

    Raises:
        BadInputError: the blocks do not pair up, or there are fewer than two pairs.
    """
    if len(reference_blocks) != len(candidate_blocks) or len(reference_blocks) < 2:
        raise BadInputError(
            "a paired speed-up needs two or more rounds of both, found "
            f"{len(reference_blocks)} of the reference and {len(candidate_blocks)} of the candidate; raise the budget"
        )
    from scipy.stats import t

    pairs = zip(reference_blocks, candidate_blocks, strict=True)
    logs = np.sort([np.log(np.median(reference) / np.median(candidate)) for reference, candidate in pairs])
    n = len(logs)
    cut = int(_TRIMMED_SHARE * n)
    kept = logs[cut : n - cut]
    winsorized = np.clip(logs, kept[0], kept[-1])
    error = float(np.std(winsorized, ddof=1)) * np.sqrt(n) / len(kept)
    mean, half = float(np.mean(kept)), float(t.ppf((1 + confidence) / 2, len(kept) - 1)) * error
    spread = np.log1p(START_SPREAD)
    lower, upper = np.exp([mean - half - spread, mean + half + spread])
    return Interval(value=float(np.exp(mean)), lower=float(lower), upper=float(upper))
