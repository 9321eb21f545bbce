"""The gateway that runs now, asked anew each time, and what the servers behind it have opened."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any

from slipway.errors import InfrastructureError
from slipway.records import Rollout
from slipway.rollout.gateway.envoy_config import CHALLENGER, CHAMPION
from slipway.rollout.gateway.running import Gateway, load_gateway
from slipway.rollout.splitters.envoy import EnvoySplitter

ASK_SECONDS = 5.0
OPEN_SECONDS = 180.0
POLL_SECONDS = 0.5


class RunningGateway:
    """``slipway.rollout.splitters.base.Splitter`` on the gateway that runs from ``folder``, whenever it was started."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def gateway(self) -> Gateway:
        """Where it answers.

        Raises:
            InfrastructureError: none runs; the command that starts one is named.
        """
        return load_gateway(self._folder)

    def set_share(self, percent: float) -> None:
        """See ``Splitter.set_share``."""
        EnvoySplitter(self.gateway).set_share(percent)

    def rollback(self) -> None:
        """See ``Splitter.rollback``."""
        EnvoySplitter(self.gateway).rollback()

    def share(self) -> float:
        """See ``Splitter.share``."""
        return EnvoySplitter(self.gateway).share()

    def observed_share(self, since_s: float) -> float | None:
        """See ``Splitter.observed_share``."""
        return EnvoySplitter(self.gateway).observed_share(since_s)

    def set_shadow(self, on: bool) -> None:
        """See ``EnvoySplitter.set_shadow``."""
        EnvoySplitter(self.gateway).set_shadow(on)

    def opened(self, cluster: str) -> str | None:
        """The version that the server of a cluster answers with; None where Envoy would not ask it now."""
        gateway = self.gateway
        clusters = _asked(f"{gateway.admin}/clusters?format=json") or {}
        for found in clusters.get("cluster_statuses", []):
            if found.get("name") == cluster:
                return _version(found.get("host_statuses", []), gateway.name)
        return None


def await_contenders(
    running: RunningGateway, rollout: Rollout, renew: Callable[[], None], spoken: Callable[[], bool]
) -> None:
    """Wait until both servers have opened what takes part: a share for a server that is starting would tell nothing.

    Whoever has ``spoken`` in the registry meanwhile may have put another engine there: then nothing is waited for.

    Raises:
        InfrastructureError: one has not within minutes; its output is named.
    """
    wanted = {CHAMPION: rollout.champion.version, CHALLENGER: rollout.challenger.version}
    deadline = time.monotonic() + OPEN_SECONDS
    for alias, version in wanted.items():
        while (found := running.opened(alias)) != version and not spoken():
            if time.monotonic() > deadline:
                told = "none that answers" if found is None else f"version {found}"
                raise InfrastructureError(
                    f"the {alias}'s server has {told} open after {OPEN_SECONDS:g} s, version {version} takes part; see "
                    f"{running.gateway.folder / f'serve-{alias}.txt'}"
                )
            renew()
            time.sleep(POLL_SECONDS)


def _version(hosts: list[dict[str, Any]], name: str) -> str | None:
    for host in hosts:
        unwell = [key for key, value in host.get("health_status", {}).items() if key.startswith("failed") and value]
        place = host.get("address", {}).get("socket_address", {})
        if unwell or "port_value" not in place:
            return None
        told = _asked(f"http://{place['address']}:{place['port_value']}/v2/models/{name}") or {}
        versions = told.get("versions") or [None]
        return None if versions[0] is None else str(versions[0])
    return None


def _asked(url: str) -> dict[str, Any] | None:
    try:
        with urllib.request.urlopen(url, timeout=ASK_SECONDS) as answer:  # noqa: S310 - http, as the gateway told it
            found = json.loads(answer.read())
    except (urllib.error.URLError, HTTPException, OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
