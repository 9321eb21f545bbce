"""The border to Prefect's API."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from prefect.exceptions import ObjectNotFound

from slipway.errors import InfrastructureError
from tasks import prefect_api
from tasks.prefect_api import ensure_pooled, prefect


@pytest.mark.parametrize(
    "error", [httpx.ReadTimeout("no\n answer"), RuntimeError("no answer")], ids=["httpx", "the very first call"]
)
def test_what_the_block_meets_is_told_in_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    class Client:
        def __enter__(self) -> Client:
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(prefect_api, "get_client", lambda **_: Client())
    told = f"^Prefect did not take it: {type(error).__name__}: no answer; check that its server is up and PREFECT_API"
    with pytest.raises(InfrastructureError, match=told), prefect("did not take it"):
        raise error


def test_a_deployment_of_a_pool_is_made_once() -> None:
    made: list[tuple[Any, ...]] = []

    class Client:
        def read_deployment_by_name(self, name: str) -> None:
            if not made:
                raise ObjectNotFound(Exception(name))

        def create_flow_from_name(self, name: str) -> str:
            return f"id of {name}"

        def create_deployment(self, flow_id: str, name: str, **rest: str) -> None:
            made.append((flow_id, name, rest))

    client: Any = Client()
    assert ensure_pooled(client, "audit", "board", "flows.audit.audit")
    assert not ensure_pooled(client, "audit", "board", "flows.audit.audit")
    assert made == [("id of audit", "board", {"work_pool_name": "board", "entrypoint": "flows.audit.audit"})]
