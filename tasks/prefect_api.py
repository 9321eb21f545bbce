"""The border to Prefect's API: its client, and errors in Slipway's own words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import ObjectNotFound

from slipway.errors import InfrastructureError

NO_ANSWER = (httpx.HTTPError, RuntimeError)  # the latter if the very first call fails


@contextmanager
def prefect(failed: str = "did not answer") -> Iterator[SyncPrefectClient]:
    """A client for the block; ``failed`` says in words what Prefect did not do if the block fails.

    Raises:
        InfrastructureError: Prefect does not answer.
    """
    try:
        with get_client(sync_client=True) as client:
            yield client
    except NO_ANSWER as error:
        raise no_answer(failed, error) from error


def no_answer(failed: str, error: Exception) -> InfrastructureError:
    """What is told when Prefect ``failed``, such as "did not answer"."""
    return InfrastructureError(
        f"Prefect {failed}: {in_one_line(error)}; check that its server is up and PREFECT_API_URL is right"
    )


def in_one_line(error: Exception) -> str:
    """Which error, and what it says."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def ensure_pooled(client: SyncPrefectClient, flow: str, pool: str, entrypoint: str) -> bool:
    """Make the deployment of ``flow`` for ``pool`` if there is none; whether it was made."""
    try:
        client.read_deployment_by_name(f"{flow}/{pool}")
    except ObjectNotFound:
        flow_id = client.create_flow_from_name(flow)
        client.create_deployment(flow_id, pool, work_pool_name=pool, entrypoint=entrypoint)
        return True
    return False
