"""What the receiver hands on to Prefect, and what it makes of one that lets nobody in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from flows import receiver
from flows.receiver import PrefectBus
from slipway.errors import BadInputError, InfrastructureError, first_line
from slipway.records import ReleaseRequest
from tasks.prefect_api import NotLetInError

REQUEST = ReleaseRequest(model="models:/digits/3", params="params.yaml", reason="it was registered")
CALLS: list[Callable[[PrefectBus], object]] = [
    lambda bus: bus.ask(REQUEST, "a key"),
    lambda bus: bus.holds(UUID(int=0)),
    lambda bus: bus.check(),
]


def answer(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(*_: Any) -> None:
        raise error from ValueError("what Prefect's client says")

    for name in ("ask_for_release", "holds_event", "check_prefect"):
        monkeypatch.setattr(receiver, name, raising)


@pytest.mark.parametrize("call", CALLS, ids=["ask", "holds", "check"])
def test_a_prefect_that_lets_nobody_in_is_waited_for(
    call: Callable[[PrefectBus], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that is away: nothing is wrong with the delivery, and its log tells what to set."""
    answer(NotLetInError("set the string"), monkeypatch)
    with pytest.raises(InfrastructureError) as told:
        call(PrefectBus())
    assert first_line(told.value) == "set the string"


def test_a_delivery_that_prefect_refuses_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(BadInputError("too long"), monkeypatch)
    with pytest.raises(BadInputError, match="too long"):
        PrefectBus().ask(REQUEST, "a key")
