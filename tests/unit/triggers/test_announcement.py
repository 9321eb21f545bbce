from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.webhooks.types import EVENT_TO_PAYLOAD_CLASS

from slipway.triggers.announcement import EVENTS, AliasSet, Announcement, Other, VersionCreated, read_announcement
from slipway.triggers.signature import RefusedDeliveryError
from tests.unit.triggers.deliveries import announced


def test_both_kinds_of_events_are_read() -> None:
    assert read_announcement(announced()) == VersionCreated(name="digits", version="3", source="models:/m-1")
    alias = announced("model_version_alias", alias="candidate")
    assert read_announcement(alias) == AliasSet(name="digits", alias="candidate", version="3")


def test_every_event_that_mlflow_knows_is_read() -> None:
    """With the example that its own test of a webhook sends."""
    read: dict[str, Announcement] = {}
    for (entity, action), payload in EVENT_TO_PAYLOAD_CLASS.items():
        body = {"entity": entity.value, "action": action.value, "timestamp": "now", "data": payload.example()}
        read[f"{entity}.{action}"] = read_announcement(json.dumps(body).encode())
    assert {name for name, found in read.items() if not isinstance(found, Other)} == set(EVENTS)
    assert str(read["prompt.created"]) == "prompt created"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"entity": "model_version", "action": "created"}',
        b'{"entity": "model_version", "action": "created", "data": []}',
        announced(name=""),
        announced(name=None),
        announced(name="x" * 257),
        announced(version="../3"),
        announced(version="٣"),
        announced(version="3\n"),
        announced(version="9" * 19),
        announced("model_version_alias"),
        announced("x" * 65),
    ],
)
def test_anything_else_is_malformed_and_told_in_one_line(body: bytes) -> None:
    with pytest.raises(RefusedDeliveryError) as error:
        read_announcement(body)
    assert (error.value.status, error.value.outcome) == (400, "malformed")
    assert str(error.value).startswith("the body is not what MLflow sends: ")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@given(
    st.one_of(
        st.binary(max_size=200), st.recursive(st.none() | st.text(), st.lists).map(lambda x: json.dumps(x).encode())
    )
)
def test_no_body_does_more_than_be_refused(body: bytes) -> None:
    with pytest.raises(RefusedDeliveryError):
        read_announcement(body)
