"""Simulate rollouts, and tell how often the canary errs, beside fixed thresholds and a test that was made for one look.

``.venv/bin/python benchmarks/canary_errors.py`` simulates 1,000 rollouts of each kind of challenger, by the canary's
own decisions and the default policy, in about 6 minutes on 2 cores. It exits with 1 when an error rate exceeds what it
is told to be, or a bad challenger is missed. The table of a whole run goes into docs/guides/canary.md.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pool
from typing import Any

import numpy as np
from examples import ROOT, line, write
from numpy.typing import NDArray

from slipway.config import CanaryParams
from slipway.decisions.canary import Seen, advance, readings
from slipway.records import Contender, Phase, Rollout

POLICY = CanaryParams()
ROLLOUTS = 1000
GUIDE = ROOT / "docs" / "guides" / "canary.md"
LOOK = 100  # requests of the challenger
SLOW, SLOW_MS, FAST_MS, SPREAD = 0.1, 30.0, 10.0, 0.2
DISAGREED, LABELLED = 0.01, 0.9
LOOKS_OF_OTHERS = 50
FAILED_CHECKS = 5
WINDOW_SHARES = (0.95, 0.99)
KAYENTA_Z = 2.326  # of a 98% interval
KAYENTA_TOLERANCE = 0.25  # of the estimate, which the lower end of the interval has to exceed
HEADINGS = (
    *(
        "challenger",
        "should be",
        "rollouts",
        "promoted",
        "rolled back",
        "inconclusive",
        "requests (median; 95% within)",
    ),
    *("fixed p95", "fixed p99", "Mann-Whitney", "with tolerance"),
)
Latencies = NDArray[np.float64]


@dataclass(frozen=True)
class Challenger:
    """A kind of challenger: how it differs from the champion, and at most how often it may be promoted or rolled back.

    ``tail`` multiplies its slow mode, ``times`` all its latencies; ``lost`` and ``errors`` are shares of its requests
    beyond the champion's. ``burst`` requests at a time are slow or fast, of either arm; ``load`` multiplies the
    latencies of both arms at the last step, as they would be at a busier hour. ``part`` of the rollouts asked for are
    simulated.
    """

    name: str
    should_be: str
    promoted: float = 1.0
    rolled_back: float = 1.0
    tail: float = 1.0
    times: float = 1.0
    lost: float = 0.0
    errors: float = 0.0
    burst: int = 1
    load: float = 1.0
    part: float = 1.0

    @property
    def shows_in_latency(self) -> bool:
        """Whether rules on latency alone have anything to say."""
        return self.tail != 1 or self.times != 1 or self.should_be == "promoted"


ALPHA = POLICY.alpha
CHALLENGERS = (
    Challenger("equal", "promoted", rolled_back=ALPHA),
    Challenger("equal, bursts of 8", "promoted", rolled_back=ALPHA, burst=8, part=0.25),
    Challenger("equal, load doubles", "promoted", rolled_back=ALPHA, load=2.0, part=0.25),
    Challenger("latency at the margin", "not promoted", ALPHA, ALPHA, times=1 + POLICY.latency_margin),
    Challenger(
        "latency at the margin, bursts of 32",
        "not promoted",
        ALPHA,
        times=1 + POLICY.latency_margin,
        burst=32,
        part=0.25,
    ),
    Challenger("accuracy at the margin", "not promoted", ALPHA, ALPHA, lost=POLICY.accuracy_margin, part=0.25),
    Challenger("errors at the margin", "not promoted", ALPHA, ALPHA, errors=POLICY.error_margin, part=0.25),
    Challenger("tail x2 (p95 doubled)", "rolled back", 0.0, tail=2.0),
    Challenger("3 points less accurate", "rolled back", 0.0, lost=0.03),
    Challenger("5% of requests fail", "rolled back", 0.0, errors=0.05),
)


@dataclass(frozen=True)
class Outcome:
    """How one rollout ended, after how many requests of the challenger; and which of the other rules rolled it back."""

    phase: Phase
    requests: int
    others: tuple[bool, ...]


def simulated(challenger: Challenger, seed: int) -> Outcome:
    """One rollout, looked at every 100 requests of the challenger."""
    world = World(challenger, np.random.default_rng(seed))
    nobody = Contender(version="1", digest="0")
    rollout = Rollout(
        rollout_id=str(seed),
        name="simulated",
        champion=nobody,
        challenger=nobody,
        policy_json=POLICY.model_dump_json(),
        started_s=0,
        phase_since_s=0,
    )
    rollout = advance(POLICY, rollout, (), world.seen(), approval_required=False)
    while not rollout.phase.ended:
        world.run(rollout.share_percent)
        seen = world.seen()
        found = readings(POLICY, None, seen, rollout.steps_begun)
        rollout = advance(POLICY, rollout, found, seen, approval_required=False)
    others = world.others() if challenger.shows_in_latency else ()
    return Outcome(rollout.phase, world.seen().challenger_requests, others)


class Kept:
    """Values that are added to at every look, in one array."""

    def __init__(self, kind: type) -> None:
        self._values, self._n = np.empty(60_000, kind), 0

    def add(self, values: NDArray[Any]) -> None:
        """Keep these too."""
        self._values[self._n : self._n + len(values)] = values
        self._n += len(values)

    def all(self) -> NDArray[Any]:
        """All that were kept, shape (n,)."""
        return self._values[: self._n]


class World:
    """Both arms' requests so far: drawn in advance, told as they come."""

    def __init__(self, challenger: Challenger, rng: np.random.Generator) -> None:
        self._of, self._rng = challenger, rng
        self._champion, self._challenger = Kept(float), Kept(float)
        self._errors = [0, 0]
        self._disagreed, self._gained = Kept(bool), Kept(float)
        self._settled = self._missing = 0

    def run(self, share_percent: float) -> None:
        """The requests until the challenger has had 100 more."""
        champion = round(LOOK * (100 - share_percent) / share_percent)
        load = self._of.load if share_percent == POLICY.steps[-1] else 1.0
        failed = self._rng.binomial(champion, 0.001), self._rng.binomial(LOOK, 0.001 + self._of.errors)
        self._errors = [self._errors[0] + failed[0], self._errors[1] + failed[1]]
        self._champion.add(load * self._latencies(champion - failed[0]))
        of_challenger = self._latencies(LOOK - failed[1], self._of.tail)
        self._challenger.add(load * self._of.times * of_challenger)
        self._mirror()

    def _latencies(self, n: int, tail: float = 1.0) -> Latencies:
        """In milliseconds, of two modes: 90% near 10 ms, 10% near 30 ms, so that the p95 is the slow mode's median."""
        bursts = self._rng.random(n // self._of.burst + 1) < SLOW
        slow = np.repeat(bursts, self._of.burst)[:n]
        drawn: Latencies = np.where(slow, tail * SLOW_MS, FAST_MS) * self._rng.lognormal(0, SPREAD, n)
        return drawn

    def _mirror(self) -> None:
        """As many mirrored requests: 1% of an equal challenger's answers differ, half of them for the better.

        What it loses beyond that it loses where it would have agreed. One label in ten never comes.
        """
        drawn, labelled = self._rng.random(LOOK), self._rng.random(LOOK) < LABELLED
        lost = drawn < DISAGREED / 2 + self._of.lost
        gained = drawn > 1 - DISAGREED / 2
        self._disagreed.add(lost | gained)
        self._gained.add((gained.astype(float) - lost)[labelled])
        self._settled += int(np.sum((lost | gained) & labelled))
        self._missing += int(np.sum(~labelled))

    def seen(self) -> Seen:
        """What the controller would see."""
        return Seen(
            champion_ms=self._champion.all(),
            challenger_ms=self._challenger.all(),
            champion_errors=self._errors[0],
            challenger_errors=self._errors[1],
            disagreed=self._disagreed.all(),
            gained=self._gained.all(),
            labels_missing=self._missing,
            disagreed_labelled=self._settled,
        )

    def others(self) -> tuple[bool, ...]:
        """Whether each of the other rules rolls back within 5,000 requests of each arm, at the last step's load."""
        champion, challenger = (
            self._latencies(LOOKS_OF_OTHERS * LOOK, tail).reshape(LOOKS_OF_OTHERS, LOOK)
            for tail in (1.0, self._of.tail)
        )
        challenger = self._of.times * challenger
        z = mann_whitney(champion, challenger)
        fixed = (threshold_fails(challenger, share) for share in WINDOW_SHARES)
        tolerant = KAYENTA_Z / (1 - KAYENTA_TOLERANCE)
        return (*fixed, bool(np.any(z > KAYENTA_Z)), bool(np.any(z > tolerant)))


def threshold_fails(challenger: Latencies, share: float) -> bool:
    """Whether five looks in all, each at its own 100 requests, exceed the champion's true quantile by over the margin.

    As Flagger does: a threshold for a window's quantile, and a rollback once so many checks failed. No person knows the
    champion's quantile as well as it is known here.
    """
    limit = (1 + POLICY.latency_margin) * true_quantile(share)
    return int(np.sum(np.quantile(challenger, share, axis=1) > limit)) >= FAILED_CHECKS


def mann_whitney(champion: Latencies, challenger: Latencies) -> NDArray[np.float64]:
    """The standardised rank sum of the challenger over the champion at every look, of all requests up to it.

    Kayenta's judge takes the 98% interval of the shift that this test inverts, and calls a metric too high where its
    lower end exceeds 25% of the estimate; about where z exceeds 2.326 / (1 - 0.25).
    """
    looks, size = challenger.shape
    flat = challenger.reshape(-1)
    below = np.array([np.searchsorted(np.sort(own), flat).reshape(looks, size).sum(axis=1) for own in champion])
    wins = np.cumsum(np.cumsum(below, axis=0), axis=1).diagonal()
    n = size * np.arange(1, looks + 1)
    z: NDArray[np.float64] = (wins - n * n / 2) / np.sqrt(n * n * (2 * n + 1) / 12)
    return z


def true_quantile(share: float) -> float:
    """Of the champion's two modes, in milliseconds, by bisection."""
    low, high = FAST_MS, 10 * SLOW_MS
    for _ in range(60):
        middle = (low + high) / 2
        modes = ((1 - SLOW, FAST_MS), (SLOW, SLOW_MS))
        below = sum(part * _normal(math.log(middle / mode) / SPREAD) for part, mode in modes)
        low, high = (middle, high) if below < share else (low, middle)
    return high


def _normal(z: float) -> float:
    return (1 + math.erf(z / math.sqrt(2))) / 2


def row(challenger: Challenger, outcomes: list[Outcome]) -> Iterable[str]:
    """One line of the table."""
    n, phases = len(outcomes), Counter(one.phase for one in outcomes)
    requests = sorted(one.requests for one in outcomes)
    yield challenger.name
    yield challenger.should_be
    yield f"{n:,}"
    for phase in (Phase.PROMOTED, Phase.ROLLED_BACK, Phase.INCONCLUSIVE):
        yield f"{phases[phase] / n:.1%}"
    yield f"{requests[n // 2]:,}; {requests[math.ceil(0.95 * n) - 1]:,}"
    for rule in range(4):
        yield f"{sum(one.others[rule] for one in outcomes) / n:.1%}" if challenger.shows_in_latency else "-"


def wrong(challenger: Challenger, outcomes: list[Outcome]) -> list[str]:
    """Which error rates exceed what they should be."""
    found = []
    for phase, most in ((Phase.PROMOTED, challenger.promoted), (Phase.ROLLED_BACK, challenger.rolled_back)):
        often = sum(one.phase is phase for one in outcomes) / len(outcomes)
        if often > most:
            found.append(f"{challenger.name}: {phase} in {often:.1%}, at most {most:.1%} expected")
    if challenger.promoted == 0 and any(one.phase is not Phase.ROLLED_BACK for one in outcomes):
        found.append(f"{challenger.name}: not rolled back in every rollout")
    return found


def main() -> int:
    """Simulate and tell; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rollouts", type=int, default=ROLLOUTS, help=f"of each kind of challenger (default: {ROLLOUTS})"
    )
    parser.add_argument("--only", default="", help="only challengers whose name contains this")
    options = parser.parse_args()
    lines, problems = [line(HEADINGS), line("---" for _ in HEADINGS)], []
    print(lines[0], flush=True)
    with Pool(2) as pool:
        for number, challenger in enumerate(CHALLENGERS):
            if options.only not in challenger.name:
                continue
            seeds = range(number * 10**6, number * 10**6 + math.ceil(options.rollouts * challenger.part))
            one: Callable[[int], Outcome] = partial(simulated, challenger)
            outcomes = pool.map(one, seeds, chunksize=5)
            lines.append(line(row(challenger, outcomes)))
            problems += wrong(challenger, outcomes)
            print(lines[-1], flush=True)
    print("\n".join(problems))
    if options.rollouts >= ROLLOUTS and not options.only:
        told = f"Simulated, looked at every {LOOK} requests of the challenger, at the default policy."
        write(GUIDE, "canary", "benchmarks/canary_errors.py", "\n".join([*lines, "", told, ""]))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
