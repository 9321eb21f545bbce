"""What the clients saw: the splitter's access log as latencies and errors of either arm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import orjson
from numpy.typing import NDArray

from slipway.decisions.sudden_failures import ANSWERED, CHAMPION_FAILED, FAILED
from slipway.rollout.observing.growing import Growing

Arm = Literal["champion", "challenger"]
ARMS: tuple[Arm, Arm] = ("champion", "challenger")
CLIENT_LEFT = 0  # the code of a request whose client did not wait for the answer
BAD_REQUEST, SERVER_ERROR = 400, 500
# With a share p the other arm has on average (1 - p) / p requests between two of this one's; that it has 20 / p of
# them has the probability (1 - p)^(20 / p) < e^-20.
_UNLIKELY_RUN = 20


@dataclass(frozen=True, slots=True)
class Routed:
    """A request as the splitter logged it: the arm it was sent to, the arm that answered, and how long that took."""

    start_s: float
    asked: Arm
    answered: Arm | None
    code: int
    upstream_us: int | None

    @property
    def failed(self) -> bool:
        """Whether the arm that was asked is to blame: for an error, or that the other one had to answer."""
        return self.code >= SERVER_ERROR or self.answered not in {None, self.asked}

    @property
    def refused(self) -> bool:
        """Whether the arm that was asked took it for the client's mistake."""
        return not self.failed and BAD_REQUEST <= self.code < SERVER_ERROR

    @property
    def served_ms(self) -> float | None:
        """The latency of an answer; None where there is none, or none that the arm could have helped."""
        answered = self.answered == self.asked and 0 < self.code < BAD_REQUEST
        return self.upstream_us / 1000 if answered and self.upstream_us is not None else None


def routed(line: bytes) -> Routed | None:
    """The request of a line of the splitter's log; None where it is none.

    Raises:
        ValueError: the line is not one that a splitter writes.
    """
    entry = orjson.loads(line)
    if not isinstance(entry, dict):
        raise ValueError("not an object")  # noqa: TRY004 - one kind of error for all that is wrong with a line
    start_s, upstream_us = entry.get("start_s"), entry.get("upstream_us")
    if not isinstance(start_s, int | float):
        raise ValueError("no time")  # noqa: TRY004
    asked, answered = entry.get("asked"), entry.get("answered")
    code, took_us = _count(entry.get("code")), None if upstream_us is None else _count(upstream_us)
    if asked not in ARMS:
        return None
    return Routed(start_s, asked, answered if answered in ARMS else None, code, took_us)


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("no count")
    return value


class Traffic:
    """Counts requests by the arm that they were sent to, in the order of the log.

    A challenger's request that the champion had to answer is an error of the challenger, as is any code from 500; those
    from 400 to 499 may be the client's, and are counted by themselves. Latencies are compared while both arms take
    traffic: a run of one arm's requests counts once the other arm was asked before and after it, unless it is so long
    that the other one took no traffic meanwhile. So do the champion's errors and refusals; the challenger's count at
    once, to roll it back. ``shares`` are the smallest and the largest share of the challenger, in percent, under which
    both take traffic.
    """

    def __init__(self, shares: tuple[float, float]) -> None:
        lowest, highest = min(*shares, 50) / 100, max(*shares, 50) / 100
        self._longest = {"champion": _UNLIKELY_RUN / lowest, "challenger": _UNLIKELY_RUN / (1 - highest)}
        self._latencies = {arm: Growing(np.float64) for arm in ARMS}
        self._baked = Growing(np.float64)
        self._run: list[float] = []
        self._run_length = self._run_errors = self._run_refused = 0
        self._run_arm: Arm | None = None
        self._both_asked = False
        self._outcomes = Growing(np.int8)
        self.errors = dict.fromkeys(ARMS, 0)
        self.refused = dict.fromkeys(ARMS, 0)
        self.left = dict.fromkeys(ARMS, 0)

    def add(self, request: Routed) -> None:
        """Count a request from before the challenger's promotion."""
        arm, served_ms = request.asked, request.served_ms
        self._turn_to(arm)
        self.left[arm] += request.code == CLIENT_LEFT
        if arm == "challenger":
            self._count(request)
            self.refused[arm] += request.refused
        else:
            self._run_errors += request.failed
            self._run_refused += request.refused
        if served_ms is not None and self._run_length <= self._longest[arm]:
            self._run.append(served_ms)

    def bake(self, request: Routed) -> None:
        """Count a request that the promoted challenger's engine was asked for, by whichever server has it open."""
        served_ms = request.served_ms
        self._count(request)
        if served_ms is not None:
            self._baked.extend((served_ms,))

    def latencies_ms(self, arm: Arm) -> NDArray[np.float64]:
        """Of the answers of an arm while both took traffic."""
        return self._latencies[arm].array()

    @property
    def baked_ms(self) -> NDArray[np.float64]:
        """Of the answers of the challenger's engine since it was promoted."""
        return self._baked.array()

    @property
    def outcomes(self) -> NDArray[np.int8]:
        """What became of the challenger's requests, and when the champion failed: those of `failing_evidence`."""
        return self._outcomes.array()

    def _count(self, request: Routed) -> None:
        """Count what became of a request to the challenger."""
        self.errors["challenger"] += request.failed
        if request.failed or request.served_ms is not None:
            self._outcomes.extend((FAILED if request.failed else ANSWERED,))

    def _turn_to(self, arm: Arm) -> None:
        """Let the other arm's run count where it is over."""
        if arm != self._run_arm:
            before = self._run_arm
            if before is not None and self._both_asked and self._run_length <= self._longest[before]:
                self._latencies[before].extend(self._run)
                self.errors[before] += self._run_errors
                self.refused[before] += self._run_refused
            if self._run_errors:
                self._outcomes.extend((CHAMPION_FAILED,))
            self._both_asked = before is not None
            self._run, self._run_length, self._run_errors, self._run_refused, self._run_arm = [], 0, 0, 0, arm
        self._run_length += 1
