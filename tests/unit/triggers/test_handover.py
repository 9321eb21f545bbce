from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from slipway.errors import BadInputError, InfrastructureError
from slipway.records import ReleaseRequest
from slipway.triggers.decide import Asked, Refusal
from slipway.triggers.deliveries import KEPT_SECONDS, Deliveries, Delivery
from slipway.triggers.handover import CONFIRM_EVERY_SECONDS, LOOK_EVERY_SECONDS, Contact, Handover
from slipway.triggers.metrics import Figures
from tests.unit.triggers.deliveries import FakeBus, RecordedLog

RELEASE = ReleaseRequest(model="models:/digits/3", params="params.yaml", reason="it was registered")


class Desk:
    """A handover whose clock stands still unless moved."""

    def __init__(self, root: Path) -> None:
        self.store, self.bus, self.log = Deliveries(root / "deliveries.db"), FakeBus(), RecordedLog()
        self.figures = Figures(self.store.standing)
        self.now_s = 1000.0
        self.decision: Callable[[], Asked | Refusal] = lambda: RELEASE
        self.handover = self.restarted()

    def restarted(self) -> Handover:
        decide: Callable[[Delivery], tuple[Asked | Refusal, str]] = lambda _: (self.decision(), "a key")  # noqa: E731
        self.handover = Handover(self.store, self.bus, decide, self.figures, self.log, lambda: self.now_s)
        return self.handover

    def keep(self, *names: str, decided: bool = True) -> None:
        for name in names:
            asked, key = (RELEASE, f"key of {name}") if decided else (None, None)
            assert self.store.keep(Delivery(name, self.now_s, "10.0.0.7", b"{}", asked, key))

    @property
    def pending(self) -> list[str]:
        return [one.delivery_id for one in self.store.pending()]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_delivery_is_asked_for_once_and_done_when_prefect_holds_it(desk: Desk) -> None:
    desk.keep("a")
    assert desk.handover.once() == CONFIRM_EVERY_SECONDS
    assert desk.pending == ["a"]
    assert desk.handover.once() == LOOK_EVERY_SECONDS
    assert desk.pending == []
    assert [asked for asked, _ in desk.bus.asked] == [RELEASE]
    assert desk.log.told("asked Prefect") == ["it was registered"]
    assert "slipway_webhook_waited_seconds_count 1.0" in desk.figures.exposed().decode()


def test_prefect_down_loses_nothing_and_is_told_once(desk: Desk) -> None:
    desk.bus.go_down()
    desk.keep("a", "b")
    assert [desk.handover.once() for _ in range(7)] == [1, 2, 4, 8, 15, 15, 15]
    assert sorted(desk.pending) == ["a", "b"]
    assert desk.handover.contact == Contact(reachable=False, since_s=1000.0)
    assert "slipway_webhook_prefect_up 0.0" in desk.figures.exposed().decode()

    desk.bus.error, desk.now_s = None, 4600.0
    desk.handover.once()
    desk.handover.once()

    assert desk.pending == []
    assert len(desk.bus.asked) == 2
    assert desk.handover.contact == Contact(reachable=True, since_s=4600.0)
    assert [line["what"] for line in desk.log.lines] == [
        "Prefect does not answer; what is pending waits",
        "Prefect answers",
        "asked Prefect",
        "asked Prefect",
    ]


def test_a_restart_goes_on_where_it_was(desk: Desk) -> None:
    desk.keep("a", "b")
    desk.bus.go_down()
    desk.handover.once()
    desk.bus.error = None
    desk.restarted().once()
    assert len(desk.bus.asked) == 2
    desk.restarted().once()
    assert (desk.pending, len(desk.bus.asked)) == ([], 2)


def test_a_restart_between_the_event_and_its_note_asks_for_the_same_event(desk: Desk) -> None:
    """A second time with the same id, which Prefect takes for the first."""
    desk.keep("a")

    def fail(*_: object) -> None:
        raise InfrastructureError("the disk is full")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(desk.store, "asked", fail)
        desk.handover.once()
    desk.restarted().once()
    (_, first), (_, second) = desk.bus.asked
    assert first == second


def test_what_prefect_took_and_lost_is_asked_for_again(desk: Desk) -> None:
    """As by a server that is killed before it writes down what it took."""
    desk.bus.forgets = True
    desk.keep("a")
    desk.handover.once()
    desk.now_s += 29
    desk.handover.once()
    assert len(desk.bus.asked) == 1
    desk.bus.forgets = False
    desk.now_s += 2
    desk.handover.once()
    desk.handover.once()
    (_, first), (_, second) = desk.bus.asked
    assert (first, desk.pending) == (second, [])
    assert desk.log.told("asked Prefect again, which had not kept the event") == ["it was registered"]


def test_an_event_that_prefect_refuses_holds_up_no_other(desk: Desk) -> None:
    def refuse(asked: Asked) -> None:
        if asked.reason == "odd":
            raise BadInputError("Prefect refuses it")

    desk.bus.before = refuse
    desk.store.keep(Delivery("odd", 1.0, "10.0.0.7", b"{}", RELEASE.model_copy(update={"reason": "odd"}), "odd"))
    desk.keep("a")
    for _ in range(3):
        desk.handover.once()
    assert desk.pending == ["odd"]
    assert desk.log.told("cannot hand on") == ["delivery odd is tried again, behind all others: Prefect refuses it"]
    assert desk.handover.contact.reachable


def test_what_could_not_be_decided_waits_for_the_parameters(desk: Desk) -> None:
    def wrong() -> Asked:
        raise BadInputError("params.yaml: unknown key")

    desk.decision = wrong
    desk.keep("a", decided=False)
    desk.handover.once()
    desk.handover.once()
    assert (desk.pending, desk.bus.asked) == (["a"], [])
    assert desk.log.told("cannot hand on") == ["delivery a waits: params.yaml: unknown key"]

    desk.decision = lambda: RELEASE
    desk.handover.once()
    desk.handover.once()
    assert (desk.pending, len(desk.bus.asked)) == ([], 1)


def test_what_is_then_refused_is_done(desk: Desk) -> None:
    desk.decision = lambda: Refusal(why="no such model")
    desk.keep("a", decided=False)
    desk.handover.once()
    assert (desk.pending, desk.bus.asked) == ([], [])
    assert desk.log.told("refused") == ["no such model"]


def test_a_store_that_fails_is_told_and_tried_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[Delivery]:
        raise InfrastructureError("the disk is full")

    desk.keep("a")
    with monkeypatch.context() as patched:
        patched.setattr(desk.store, "pending", fail)
        assert [desk.handover.once(), desk.handover.once()] == [1, 2]
    assert desk.log.told("cannot hand on") == ["the disk is full"]
    desk.handover.once()
    assert len(desk.bus.asked) == 1


def test_old_deliveries_are_forgotten(desk: Desk) -> None:
    desk.keep("a")
    desk.handover.once()
    desk.handover.once()
    desk.now_s += KEPT_SECONDS + 1
    desk.handover.once()
    assert not desk.store.seen("a")


def test_its_thread_survives_what_nobody_foresaw_and_ends_at_once(desk: Desk) -> None:
    desk.bus.error = ZeroDivisionError("unheard of")
    desk.keep("a")
    desk.handover.start()
    deadline = time.monotonic() + 10
    while not desk.log.told("cannot hand on") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert desk.log.told("cannot hand on") == ["unforeseen ZeroDivisionError: unheard of"]
    desk.bus.error = None
    desk.handover.wake()
    while desk.pending and time.monotonic() < deadline:
        time.sleep(0.01)
    start = time.monotonic()
    desk.handover.stop()
    assert time.monotonic() - start < 2
    assert desk.pending == []
