"""What Prefect's server holds: pools, deployments and automations, in this order."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import product
from pathlib import Path

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_API_URL

from infra.provision.automations import automations, deployment_id, ensure_automation
from infra.provision.declared import load, read_declared
from infra.provision.deployments import POOLED, ensure_deployment, ensure_pooled
from infra.provision.pools import COMMON, ensure_pool
from infra.provision.things import Change, Skip, Thing
from slipway.errors import BadInputError, InfrastructureError, SlipwayError
from tasks.prefect_api import NO_ANSWER, no_api, not_let_in

BY_HAND = "release"  # the flow of `slipway release`


def prefect_things(root: Path, target_pools: Iterable[str]) -> Iterator[Thing]:
    """The things of the server that PREFECT_API_URL names, for the project in ``root``.

    Raises:
        Skip: it names none.
        BadInputError: `prefect.yaml` is missing or wrong.
    """
    if not PREFECT_API_URL.value():
        raise Skip("PREFECT_API_URL is not set: work pools, deployments, automations")
    target_pools = sorted(set(target_pools))
    deployments = read_declared(root).deployments
    pools = dict.fromkeys([COMMON, *(one.work_pool.name for one in deployments), *target_pools])
    with get_client(sync_client=True) as client:
        client.api_version()  # a server that does not let us in says so once, and not of each thing
        for name in pools:
            yield Thing(f"work pool {name}", partial(ensure_pool, client, name))
        for flow, pool in product(POOLED, target_pools):
            yield Thing(f"deployment {flow}/{pool}", partial(ensure_pooled, client, flow, pool))
        for one in deployments:
            yield Thing(f"deployment {one.name}", partial(ensure_deployment, client, one))
        flows = {*POOLED, BY_HAND, *(load(one.entrypoint, one.parameters).name for one in deployments)}
        for name, make in automations(partial(deployment_id, client), flows).items():
            yield Thing(f"automation {name}", partial(_ensure, client, name, make))


def _ensure(client: SyncPrefectClient, name: str, make: Callable[[], AutomationCore]) -> Change:
    return ensure_automation(client, name, make())


def in_our_words(error: Exception) -> SlipwayError | None:
    """The error of Prefect's client, told with the server and what to do."""
    server = f"Prefect at {PREFECT_API_URL.value()}"
    if isinstance(error, PrefectException) and isinstance(cause := getattr(error, "http_exc", None), Exception):
        error = cause
    if isinstance(error, httpx.HTTPStatusError):
        status, told = error.response.status_code, " ".join(error.response.text.split())[:400]
        if status == httpx.codes.UNAUTHORIZED:
            return not_let_in(error)
        if status < httpx.codes.INTERNAL_SERVER_ERROR:
            return BadInputError(f"{server} refused ({status}): {told}; check that it is a Prefect 3.8 server")
        return InfrastructureError(f"{server} failed ({status}): {told}; look at its log")
    if isinstance(error, json.JSONDecodeError):
        return no_api()
    if isinstance(error, NO_ANSWER):
        return InfrastructureError(
            f"{server} did not answer: {type(error).__name__}: {error}; start it, or correct PREFECT_API_URL"
        )
    return None
