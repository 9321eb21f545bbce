"""The splitter on Envoy: shares in a watched file of routes, rollback by one request to its admin interface."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from slipway.errors import InfrastructureError
from slipway.rollout.gateway.envoy_admin import EnvoyAdmin
from slipway.rollout.gateway.envoy_config import CHALLENGER, routes, routes_file, state_of
from slipway.rollout.gateway.logs import Shared, shared_since
from slipway.rollout.gateway.running import Gateway, replace
from slipway.rollout.splitters.base import check_percent

WAIT_SECONDS = 10.0
POLL_SECONDS = 0.01
SMALLEST_PERCENT = 1e-4


class EnvoySplitter:
    """``slipway.rollout.splitters.base.Splitter`` on the Envoy of a gateway; shares are rounded to 0.0001%.

    The file of routes is what Envoy reads when it starts, so that a share and a rollback survive its death. Several
    processes may steer one gateway.
    """

    def __init__(self, gateway: Gateway, wait_seconds: float = WAIT_SECONDS) -> None:
        self._gateway = gateway
        self._wait_seconds = wait_seconds
        self._admin = EnvoyAdmin(gateway.admin)
        self._file = routes_file(gateway.folder)
        self._lock = FileLock(gateway.folder / "routes.lock")

    def set_share(self, percent: float) -> None:
        """See ``Splitter.set_share``."""
        check_percent(percent)
        with self._alone():
            # First the routes, then the end of a rollback: at no moment does an older share apply.
            self._write(percent, self._written()[1])
            self._wait_for(percent)
            self._admin.obey_routes()

    def rollback(self) -> None:
        """See ``Splitter.rollback``; it holds for an Envoy too that does not answer now and is started later."""
        try:
            self._admin.override(0)  # at once: another process may be waiting for its share to apply
        finally:
            with self._alone():
                self._write(0, self._written()[1])
        self._admin.override(0)  # that process may have ended the first one

    def share(self) -> float:
        """See ``Splitter.share``."""
        overridden = self._admin.overridden()
        return self._admin.applied()[0] if overridden is None else overridden

    def observed_share(self, since_s: float) -> float | None:
        """See ``Splitter.observed_share``; a request that the champion answered in a dead challenger's place counts."""
        asked = [line.asked for line in self.requests(since_s)]
        return 100 * asked.count(CHALLENGER) / len(asked) if asked else None

    def requests(self, since_s: float) -> list[Shared]:
        """The inference requests since then (seconds since 1970), as the access log tells them."""
        return shared_since(self._gateway.access_log, since_s)

    def set_shadow(self, on: bool) -> None:
        """Mirror what the champion is asked to the challenger too, or not, from now on.

        Raises:
            InfrastructureError: Envoy cannot be reached.
        """
        with self._alone():
            self._write(self._written()[0], on)
            self._admin.mirror(on)

    def _written(self) -> tuple[float, bool]:
        try:
            return state_of(json.loads(self._file.read_bytes())["resources"][0])
        except (OSError, KeyError, IndexError, TypeError, ValueError):
            # Whatever became of the file, it is written anew: without a shadow nothing is asked of the challenger.
            return 0.0, False

    def _write(self, percent: float, shadow: bool) -> None:
        try:
            replace(self._file, json.dumps(routes(percent, shadow)))
        except OSError as error:
            raise InfrastructureError(
                f"cannot write {self._file}: {error.strerror}; free the disk, or start the gateway anew"
            ) from error

    def _wait_for(self, percent: float) -> None:
        deadline = time.monotonic() + self._wait_seconds
        while abs((found := self._admin.applied()[0]) - percent) > SMALLEST_PERCENT:
            if time.monotonic() > deadline:
                raise InfrastructureError(
                    f"Envoy did not apply a share of {percent:g}% within {self._wait_seconds:g} s, it has {found:g}%; "
                    f"see {self._gateway.folder / 'envoy.log'}"
                )
            time.sleep(POLL_SECONDS)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            with self._lock.acquire(timeout=2 * self._wait_seconds):
                yield
        except Timeout as error:
            raise InfrastructureError(
                f"another process has been changing the traffic of {self._gateway.name} for "
                f"{2 * self._wait_seconds:g} s; end it, then repeat"
            ) from error
