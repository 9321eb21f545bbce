"""MLflow's webhook: tells the receiver of every new model version and every alias that was set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from infra.provision.mlflow_api import MlflowApi
from infra.provision.things import Change
from slipway.errors import BadInputError
from slipway.triggers.announcement import EVENTS

NAME = "slipway"
PATH = "2.0/mlflow/webhooks"


def ensure_webhook(api: MlflowApi, url: str, secret: str) -> Change:
    """Make the webhook or bring it up to date; one that somebody has disabled stays so.

    Raises:
        BadInputError: several webhooks bear its name.
    """
    wanted = declared(url, secret)
    match [one for one in _all(api) if one["name"] == NAME]:
        case []:
            api.post(PATH, wanted | {"secret": secret, "status": "ACTIVE"})
            return Change.CREATED
        case [found]:
            if owned(found) == owned(wanted):
                return Change.THERE
            api.patch(f"{PATH}/{found['webhook_id']}", wanted | {"secret": secret})
            return Change.CHANGED
        case several:
            raise BadInputError(
                f"MLflow at {api.uri} has {len(several)} webhooks named {NAME!r}, and each asks for releases; delete "
                "all but one"
            )


def declared(url: str, secret: str) -> dict[str, Any]:
    """The webhook as it should be; MLflow never tells a secret, so the description bears what it can be known by."""
    events = [dict(zip(("entity", "action"), event.upper().split("."), strict=True)) for event in EVENTS]
    mark = hashlib.scrypt(secret.encode(), salt=url.encode(), n=2**14, r=8, p=1, dklen=8).hex()
    description = f"Asks for releases. Made by `python -m infra.setup`; mark of its secret: {mark}"
    return {"name": NAME, "url": url, "events": events, "description": description}


def owned(webhook: dict[str, Any]) -> tuple[str, str, frozenset[tuple[str, str]]]:
    """What of a webhook this set-up decides."""
    events = frozenset((one["entity"], one["action"]) for one in webhook["events"])
    return webhook["url"], webhook.get("description", ""), events


def _all(api: MlflowApi) -> Iterator[dict[str, Any]]:
    token = ""
    while True:
        page = api.find(PATH, **({"page_token": token} if token else {})) or {}
        yield from page.get("webhooks", ())
        token = page.get("next_page_token", "")
        if not token:
            return
