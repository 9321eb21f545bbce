"""Ask for a release: an event on Prefect's bus, which an automation turns into a run of the deployment `release`."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import NAMESPACE_URL, UUID, uuid5

import httpx
from prefect.client.orchestration import get_client

from slipway.errors import InfrastructureError
from slipway.records import ReleaseRequest
from slipway.stores.registry import parse_model_uri

RELEASE_REQUESTED = "slipway.release.requested"
RESOURCE = "slipway.model"


def ask_for_release(request: ReleaseRequest, key: str) -> UUID:
    """Tell Prefect what is to be released; the id of the event, the same for the same ``key``.

    Raises:
        InfrastructureError: Prefect does not answer, or did not take the event.
    """
    name, event_id = parse_model_uri(request.model)[0], uuid5(NAMESPACE_URL, key)
    event = {
        "id": str(event_id),
        "occurred": datetime.now(UTC).isoformat(),
        "event": RELEASE_REQUESTED,
        "resource": {"prefect.resource.id": f"{RESOURCE}.{name}", "prefect.resource.name": name},
        "payload": request.model_dump(mode="json"),
    }
    try:
        with get_client(sync_client=True) as client:
            client.request("POST", "/events", json=[event]).raise_for_status()
    except (httpx.HTTPError, RuntimeError) as error:
        raise InfrastructureError(
            f"Prefect did not take the request to release {request.model}: {type(error).__name__}: {error}; check that "
            "its server is up and PREFECT_API_URL is right"
        ) from error
    return event_id
