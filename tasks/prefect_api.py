"""The border to Prefect's API: its client, and errors in Slipway's own words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from http import HTTPStatus
from typing import Any

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import ObjectNotFound
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)

from slipway.errors import BadInputError, InfrastructureError

NO_ANSWER = (httpx.HTTPError, RuntimeError)  # the latter if the very first call fails


class NotLetInError(BadInputError):
    """Prefect's server asks everybody for one string, and was given none or another."""


@contextmanager
def prefect(failed: str = "did not answer") -> Iterator[SyncPrefectClient]:
    """A client for the block; ``failed`` says in words what Prefect did not do if the block fails.

    Raises:
        InfrastructureError: Prefect does not answer.
        NotLetInError: it does, but lets this process not in.
    """
    try:
        with get_client(sync_client=True) as client:
            yield client
    except NO_ANSWER as error:
        raise no_answer(failed, error) from error


def check_prefect(patience_seconds: float) -> None:
    """See whether Prefect answers and lets this process in; its path /health asks nobody who they are.

    Raises:
        InfrastructureError: it does not answer.
        NotLetInError: it does, but lets this process not in.
        BadInputError: what answers is not its API.
    """
    try:
        with get_client(httpx_settings={"timeout": patience_seconds}, sync_client=True) as client:
            client.api_version()
    except NO_ANSWER as error:
        raise no_answer("did not answer", error) from error
    except ValueError as error:
        raise no_api() from error


def no_api() -> BadInputError:
    """What is told when the server's answer is not JSON: it shows its pages wherever its API is not."""
    return BadInputError(f"PREFECT_API_URL={PREFECT_API_URL.value()} is not Prefect's API; its address ends with /api")


def asked_once() -> AbstractContextManager[Any]:
    """Let Prefect's client not wait longer and longer before it asks again, for who tries again at once by himself."""
    return temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0})


def no_answer(failed: str, error: Exception) -> InfrastructureError | NotLetInError:
    """What is told when Prefect ``failed``, such as "did not answer"."""
    if isinstance(error, httpx.HTTPStatusError) and error.response.status_code == HTTPStatus.UNAUTHORIZED:
        return not_let_in(error)
    return InfrastructureError(
        f"Prefect {failed}: {in_one_line(error)}; check that its server is up and PREFECT_API_URL is right"
    )


def not_let_in(error: httpx.HTTPStatusError) -> NotLetInError:
    """What is told when Prefect's answer is 401."""
    url = error.request.url
    given, it = PREFECT_API_AUTH_STRING.value(), "PREFECT_API_AUTH_STRING"
    refused = f"does not accept this {it}; set it" if given else f"asks who you are; set {it}"
    return NotLetInError(
        f"Prefect at {url.scheme}://{url.netloc.decode()} {refused} to the NAME:PASSWORD that its server was given"
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
