"""Envoy's admin interface: what it applies now, and what is overridden at once."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any
from urllib.parse import urlencode

from slipway.errors import InfrastructureError
from slipway.rollout.gateway.envoy_config import SHADOW_KEY, SHARE_KEY, state_of

ASK_SECONDS = 5.0


class EnvoyAdmin:
    """The admin interface at the URL ``admin``; every method raises InfrastructureError where it does not answer."""

    def __init__(self, admin: str) -> None:
        self._admin = admin

    def ready(self) -> bool:
        """Whether Envoy answers requests."""
        try:
            return self._ask("GET", "/ready").strip() == "LIVE"
        except InfrastructureError:
            return False

    def applied(self) -> tuple[float, bool]:
        """The challenger's share in percent, and whether there is a shadow, as Envoy has them from its routes."""
        told = self._ask("GET", "/config_dump?resource=dynamic_route_configs")
        try:
            (config,) = json.loads(told)["configs"]
            return state_of(config["route_config"])
        except (KeyError, IndexError, TypeError, ValueError):
            raise InfrastructureError(f"Envoy at {self._admin} has no routes of a gateway; start the gateway") from None

    def overridden(self) -> float | None:
        """The share in percent that holds whatever the routes say; None where they hold."""
        value = self._runtime(SHARE_KEY)
        return float(value) if value else None

    def override(self, percent: int) -> None:
        """Let the challenger have this share from now on, whatever the routes say."""
        self._modify({SHARE_KEY: str(percent)})

    def obey_routes(self) -> None:
        """Let the routes hold again."""
        self._modify({SHARE_KEY: ""})

    def mirror(self, on: bool) -> None:
        """Mirror requests from now on or not, whatever the routes say."""
        self._modify({SHADOW_KEY: "100" if on else "0"})

    def reopen_logs(self) -> None:
        """Go on with a new file where a log was renamed."""
        self._ask("POST", "/reopen_logs")

    def stop_listening(self) -> None:
        """Take no more connections; requests at hand are answered."""
        self._ask("POST", "/drain_listeners")

    def active(self) -> int:
        """How many requests are being answered."""
        told = self._ask("GET", "/stats?filter=^http.gateway.downstream_rq_active$&format=json")
        return sum(int(one["value"]) for one in json.loads(told)["stats"] if "value" in one)

    def _runtime(self, key: str) -> str | None:
        entry: dict[str, Any] = json.loads(self._ask("GET", "/runtime"))["entries"].get(key, {})
        return entry.get("final_value")

    def _modify(self, values: dict[str, str]) -> None:
        self._ask("POST", f"/runtime_modify?{urlencode(values)}")

    def _ask(self, method: str, path: str) -> str:
        request = urllib.request.Request(f"{self._admin}{path}", method=method)  # noqa: S310 - our own http URL
        try:
            with urllib.request.urlopen(request, timeout=ASK_SECONDS) as answer:  # noqa: S310
                return str(answer.read().decode())
        except (urllib.error.URLError, HTTPException, OSError) as error:
            reason = getattr(error, "reason", None) or error
            raise InfrastructureError(
                f"Envoy's admin at {self._admin} did not answer {method} {path}: {reason}; see whether the gateway runs"
            ) from error
