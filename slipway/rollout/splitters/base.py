"""What a rollout asks of whatever shares the traffic between champion and challenger."""

from __future__ import annotations

from typing import Protocol

from slipway.errors import BadInputError


class Splitter(Protocol):
    """Shares the traffic of one registered engine; each call can be repeated without harm."""

    def set_share(self, percent: float) -> None:
        """Send ``percent`` of the requests to the challenger from now on; 0 sends none, 100 all.

        Once it returns, requests that arrive are shared so.

        Raises:
            BadInputError: ``percent`` is not from 0 to 100.
            InfrastructureError: the splitter cannot be reached or did not take it.
        """
        ...

    def rollback(self) -> None:
        """Send every request to the champion, at once, whatever share was set; ``set_share`` ends that.

        Raises:
            InfrastructureError: the splitter cannot be reached.
        """
        ...

    def share(self) -> float:
        """The challenger's share in percent that the splitter itself tells it applies now.

        Raises:
            InfrastructureError: the splitter cannot be reached.
        """
        ...

    def observed_share(self, since_s: float) -> float | None:
        """The challenger's share in percent of the requests since then (seconds since 1970); None without a request."""
        ...


def check_percent(percent: float) -> None:
    """Refuse a share that is none.

    Raises:
        BadInputError: it is not from 0 to 100.
    """
    if not 0 <= percent <= 100:  # NaN is neither
        raise BadInputError(f"the challenger's share is {percent}%; give one from 0 to 100")
