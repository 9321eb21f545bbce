"""What the process that answers does when the supervising one says so."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slipway.engines.base import Availability
from slipway.serving.answering import opening
from slipway.serving.answering.local_engine import LocalEngine
from slipway.serving.answering.repository import Repository
from slipway.serving.http.limits import Limits
from slipway.serving.http.metrics import Metrics
from slipway.serving.processes.messages import (
    ORDERS,
    REPORTS,
    Channel,
    Closed,
    End,
    Opened,
    Reach,
    Refuse,
    Refused,
    Report,
    Start,
    Swap,
    Unload,
)
from slipway.serving.processes.steward import Steward
from tests.fakes.multiplier import NAME, X, answer, example_file, local
from tests.unit.serving.asking import LIMITS


class Server:
    """A process that answers, without its HTTP: a steward that serves version 1, and the other end of its channel."""

    def __init__(self, folder: Path, first: LocalEngine) -> None:
        self._own, its = socket.socketpair()
        self.said = Channel(self._own, REPORTS)
        self.repository, self.metrics, self._its = Repository(LIMITS), Metrics(), its
        channel = Channel(its, ORDERS)
        self.steward = Steward(channel, channel.each(), self.repository, self.metrics)
        refusals = {"other.x86": "version 3 is refused: stale"}
        self.steward.start(Start(engines=(first,), refusals=refusals, limits=Limits(), restarts=2, folder=folder))

    def does(self, *orders: Report | object, until: Callable[[Report], bool] = lambda _: False) -> list[Report]:
        """What it reports on the orders, up to the report ``until`` which it is then told to end; else at once."""
        reports: list[Report] = []

        async def run() -> None:
            ended = asyncio.Event()
            loop = asyncio.get_running_loop()
            running = asyncio.create_task(self.steward.run(lambda: loop.call_soon_threadsafe(ended.set)))
            for order in orders:
                self.said.send(order)
            done = not orders
            while not done:
                for report in await asyncio.to_thread(self.said.receive) or ():
                    reports.append(report)
                    done = done or until(report)
            self.said.send(End())
            await asyncio.wait_for(ended.wait(), 30)
            running.cancel()

        asyncio.run(run())
        return reports

    def outcomes(self) -> list[str]:
        """The lines that count swaps."""
        told = self.metrics.exposed(0).decode().splitlines()
        return [line for line in told if line.startswith("slipway_swaps_total")]

    def close(self) -> None:
        """Let go of everything."""
        asyncio.run(self.repository.close())
        self._own.close()
        self._its.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """It serves version 1, whose factor is 2."""
    server = Server(tmp_path, local(tmp_path, 1, 2))
    yield server
    server.close()


def factor(server: Server) -> float:
    """Which engine answers."""
    found = server.repository.find(NAME).model.infer({"x": X})["y"]
    (one,) = {float(value) for value in (found / answer(1)).ravel()}
    return one


def test_it_begins_with_what_it_is_told(server: Server) -> None:
    (opened,) = server.said.receive() or ()
    assert isinstance(opened, Opened)
    assert opened.order == 1
    assert factor(server) == 2
    assert [(place.name, place.reason) for place in server.repository] == [
        (NAME, ""),
        ("other.x86", "version 3 is refused: stale"),
    ]
    assert b"slipway_engine_process_restarts 2.0" in server.metrics.exposed(0)


def test_an_engine_takes_over_and_the_former_is_closed(server: Server, tmp_path: Path) -> None:
    example = example_file(tmp_path / "beside", 3)
    swap = Swap(engine=local(tmp_path, 2, 3, companions={example.name: example}))
    reports = server.does(swap, until=lambda report: isinstance(report, Closed))
    assert reports[1:] == [Opened(order=2, notes=()), Closed(order=1)]
    assert factor(server) == 3
    assert server.outcomes() == ['slipway_swaps_total{model="tiny.x86",outcome="swapped"} 1.0']


def absent(_: object) -> Availability:
    """An engine that is not installed."""
    return Availability(engine="tensorrt", available=False, version=None, reason="it is not installed", extra=None)


@pytest.mark.parametrize(
    ("flaw", "kind", "outcome", "reason"),
    [
        ("bytes", "TamperedError", "tampered", "is not the engine file of its evidence; register the model again"),
        ("answers", "RejectedError", "parity", "its stored example is answered otherwise than in its validation"),
        ("engine", "UnsupportedError", "unsupported", "engine tensorrt is not available here"),
        ("example", "BadInputError", "refused", "cannot read arrays from"),
    ],
)
def test_an_engine_that_cannot_take_over_leaves_the_former_and_is_told_counted_and_shown(
    server: Server, tmp_path: Path, flaw: str, kind: str, outcome: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = example_file(tmp_path / "beside", 4 if flaw == "answers" else 3)
    engine = local(tmp_path, 2, 3, companions={example.name: example})
    if flaw == "bytes":
        engine.path.write_bytes(b"other")
    if flaw == "engine":
        monkeypatch.setattr("slipway.engines.tensorrt.TensorRtEngine.availability", absent)
        spec = engine.evidence.spec.model_copy(update={"engine": "tensorrt"})
        engine = engine.model_copy(update={"evidence": engine.evidence.model_copy(update={"spec": spec})})
    if flaw == "example":
        example.write_bytes(b"no npz")
    reports = server.does(Swap(engine=engine), until=lambda report: isinstance(report, Refused))
    refused = reports[-1]
    assert isinstance(refused, Refused)
    assert reason in refused.error
    assert (refused.order, refused.kind) == (2, kind)
    assert factor(server) == 2
    assert next(place.told()["reason"] for place in server.repository) == f"version 2 is refused: {refused.error}"
    assert server.outcomes() == [f'slipway_swaps_total{{model="tiny.x86",outcome="{outcome}"}} 1.0']


def test_an_engine_that_hangs_while_it_is_opened_does_not_keep_the_next_one_from_taking_over(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, real = threading.Event(), opening.opened

    def hanging(engine: LocalEngine) -> opening.Ready:
        assert go_on.wait(30)
        return real(engine)

    with monkeypatch.context() as patch:
        patch.setattr(opening, "opened", hanging)
        patch.setattr(opening, "OPENING_SECONDS", 0.05)
        refused = server.does(Swap(engine=local(tmp_path, 2, 3)), until=lambda report: isinstance(report, Refused))[-1]
    assert isinstance(refused, Refused)
    assert (refused.order, refused.kind) == (2, "InfrastructureError")
    assert server.outcomes() == ['slipway_swaps_total{model="tiny.x86",outcome="failed"} 1.0']
    server.does(Swap(engine=local(tmp_path, 3, 5)), until=lambda report: getattr(report, "order", 0) == 3)
    assert factor(server) == 5
    go_on.set()


def test_a_model_is_unloaded_once_it_has_answered(server: Server) -> None:
    reports = server.does(Unload(name=NAME), until=lambda report: isinstance(report, Closed))
    assert reports[1:] == [Closed(order=1)]
    assert [place.name for place in server.repository] == ["other.x86"]


def test_what_the_supervising_process_found_is_shown_and_counted(server: Server, tmp_path: Path) -> None:
    refuse = Refuse(name=NAME, reason="version 5 is refused: stale", outcome="refused")
    last = Swap(engine=local(tmp_path, 2, 3).model_copy(update={"name": "new.x86"}))
    server.does(refuse, Reach(reason="down"), last, until=lambda report: getattr(report, "order", 0) == 2)
    assert next(place.told() for place in server.repository) == {
        "name": NAME,
        "version": "1",
        "state": "READY",
        "reason": "version 5 is refused: stale",
    }
    assert [place.name for place in server.repository] == [NAME, "other.x86", "new.x86"]
    assert b"slipway_registry_up 0.0" in server.metrics.exposed(0)
    assert 'slipway_swaps_total{model="tiny.x86",outcome="refused"} 1.0' in server.outcomes()


def test_it_is_an_orphan_once_the_supervising_process_ends_without_a_word(server: Server) -> None:
    server.does()
    assert not server.steward.orphaned
    ended = threading.Event()

    async def run() -> None:
        running = asyncio.create_task(server.steward.run(ended.set))
        server.said.close()
        assert await asyncio.to_thread(ended.wait, 30)
        running.cancel()

    channel = Channel(server._its, ORDERS)
    server.steward = Steward(channel, channel.each(), server.repository, server.metrics)
    asyncio.run(run())
    assert server.steward.orphaned
