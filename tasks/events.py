"""Ask for a release or a rollout: an event on Prefect's bus, which an automation turns into a run of a deployment."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import NAMESPACE_URL, UUID, uuid5

import httpx
from prefect.client.orchestration import get_client

from slipway.errors import BadInputError
from slipway.records import ReleaseRequest
from slipway.stores.registry import parse_model_uri
from slipway.triggers.decide import RolloutRequest
from tasks.prefect_api import NO_ANSWER, in_one_line, no_answer

RELEASE_REQUESTED = "slipway.release.requested"
RESOURCE = "slipway.model"
ROLLOUT_REQUESTED = "slipway.rollout.requested"
ENGINE_RESOURCE = "slipway.engine"
ANSWER_SECONDS = 15.0
REFUSED = (413, 422)  # which would be answered so again
REMEMBERED = timedelta(days=365)  # Prefect's own retention of events, 7 days unless set, is what counts


def ask_for_release(request: ReleaseRequest, key: str) -> UUID:
    """Tell Prefect what is to be released; the id of the event, the same for the same ``key``.

    Nothing is told twice: where Prefect holds that event, it is left at that.

    Raises:
        InfrastructureError: Prefect does not answer.
        BadInputError: Prefect refuses the event.
    """
    name = parse_model_uri(request.model)[0]
    resource = {"prefect.resource.id": f"{RESOURCE}.{name}", "prefect.resource.name": name}
    return _ask(RELEASE_REQUESTED, resource, request.model_dump(mode="json"), key, f"to release {request.model}")


def ask_for_rollout(request: RolloutRequest, key: str) -> UUID:
    """Tell Prefect which engine is to be rolled out, as `ask_for_release` does.

    Raises:
        InfrastructureError: Prefect does not answer.
        BadInputError: Prefect refuses the event.
    """
    name = f"{request.name}.{request.target}"
    resource = {"prefect.resource.id": f"{ENGINE_RESOURCE}.{name}", "prefect.resource.name": name}
    what = f"to roll out {name} version {request.version}"
    return _ask(ROLLOUT_REQUESTED, resource, request.model_dump(mode="json"), key, what)


def holds_event(event_id: UUID) -> bool:
    """Whether Prefect has written the event down, which it does some seconds after it took it.

    Raises:
        InfrastructureError: Prefect does not answer.
    """
    now = datetime.now(UTC)
    # Told in full: by default Prefect leaves out what a clock ahead of its own has dated.
    occurred = {"since": (now - REMEMBERED).isoformat(), "until": (now + timedelta(days=1)).isoformat()}
    asked = {"filter": {"id": {"id": [str(event_id)]}, "occurred": occurred}, "limit": 1}
    answer = _post("/events/filter", f"whether it holds the event {event_id}", json=asked)
    return bool(answer.json()["events"])


def _ask(event: str, resource: Mapping[str, str], payload: Mapping[str, Any], key: str, what: str) -> UUID:
    event_id = uuid5(NAMESPACE_URL, key)
    # The bus knows an id for 5 minutes and the triggers know it for 30; one that came later would start a second run.
    if holds_event(event_id):
        return event_id
    # Dated now, however old the request is: a trigger ignores an event older than the last one that it acted on.
    occurred = datetime.now(UTC).isoformat()
    told = {"id": str(event_id), "occurred": occurred, "event": event, "resource": resource, "payload": payload}
    _post("/events", what, json=[told])
    return event_id


def _post(path: Literal["/events", "/events/filter"], what: str, **content: Any) -> httpx.Response:
    try:
        with get_client(httpx_settings={"timeout": ANSWER_SECONDS}, sync_client=True) as client:
            answer = client.request("POST", path, **content)
            answer.raise_for_status()
            return answer
    except NO_ANSWER as error:
        if isinstance(error, httpx.HTTPStatusError) and error.response.status_code in REFUSED:
            raise BadInputError(
                f"Prefect refuses what it was asked, {what}: {in_one_line(error)}; is its version another?"
            ) from error
        raise no_answer(f"does not answer what it was asked, {what}", error) from error
