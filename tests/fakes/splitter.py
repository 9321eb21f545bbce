"""A splitter in memory that passes the contract of all splitters."""

from __future__ import annotations

import time

from slipway.errors import InfrastructureError
from slipway.rollout.splitters.base import check_percent


class FakeSplitter:
    """Shares requests that ``answer`` pretends; ``calls`` tells what it was asked to do, ``reachable`` lets it fail."""

    def __init__(self) -> None:
        self.reachable = True
        self.calls: list[str] = []
        self._percent = 0.0
        self._owed = 0.0  # percent of a request that the challenger has yet to be sent
        self._requests: list[tuple[float, bool]] = []

    def set_share(self, percent: float) -> None:
        """See ``Splitter.set_share``."""
        check_percent(percent)
        self._reach()
        self.calls.append(f"set_share {percent:g}")
        self._percent = percent

    def rollback(self) -> None:
        """See ``Splitter.rollback``."""
        self._reach()
        self.calls.append("rollback")
        self._percent = 0.0

    def share(self) -> float:
        """See ``Splitter.share``."""
        self._reach()
        return self._percent

    def observed_share(self, since_s: float) -> float | None:
        """See ``Splitter.observed_share``."""
        seen = [challenger for when_s, challenger in self._requests if when_s >= since_s]
        return 100 * sum(seen) / len(seen) if seen else None

    def answer(self, requests: int, now_s: float | None = None) -> int:
        """Share so many requests evenly, as if they came at ``now_s``; how many went to the challenger."""
        before = len(self._requests)
        for _ in range(requests):
            self._owed += self._percent
            challenger = self._owed >= 100 and self._percent > 0
            self._owed -= 100 * challenger
            self._requests.append((time.time() if now_s is None else now_s, challenger))
        return sum(challenger for _, challenger in self._requests[before:])

    def _reach(self) -> None:
        if not self.reachable:
            raise InfrastructureError("the splitter does not answer; start it again")
