"""How long a worker is waited for, and what becomes of a target whose worker dies: Prefect's client is a stand-in."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.base import ServerType
from prefect.client.schemas.objects import State, WorkerStatus
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Completed, Crashed, Failed, Pending, Running, Scheduled

from slipway.errors import InfrastructureError
from slipway.records import Decision, Verdict
from tasks import prefect_api, worker_pool
from tasks.worker_pool import Answer, Order, Patience, build_on_worker, unreachable
from tests.unit.steps.records import PARAMS, context

QUICK = Patience(poll=0.001, sign=0.001, silent=0.05, start=0.1, alone=0.05, attempts=3)
ORDER = Order(
    target="x86",
    attempt=1,
    params=PARAMS,
    context=context(),
    supplied=(),
    tracking_uri="sqlite:///mlflow.db",
    run_id="1",
    sign_seconds=1,
)
DONE = Answer(failure=Decision(verdict=Verdict.ERROR, reasons=("read back",)))


class Client:
    """Prefect as a pool of one worker and runs whose states are told in advance; the last one stays."""

    def __init__(self, *states: State[Any]) -> None:
        self.states, self.set = list(states), list[State[Any]]()
        self.dispatched: list[Order] = []
        self.pool: Any = SimpleNamespace(is_paused=False)
        self.status = WorkerStatus.ONLINE
        self.server_type, self.api_url = ServerType.SERVER, "http://prefect.example.org/api"

    def read_flow_run(self, run_id: UUID) -> Any:
        return SimpleNamespace(state=self.states.pop(0) if len(self.states) > 1 else self.states[0])

    def set_flow_run_state(self, run_id: UUID, state: State[Any], force: bool = False) -> None:
        self.set.append(state)

    def read_work_pool(self, name: str) -> Any:
        if self.pool is None:
            raise ObjectNotFound(Exception(name))
        return self.pool

    def read_workers_for_work_pool(self, name: str) -> list[Any]:
        return [SimpleNamespace(status=self.status)]


class Shared:
    """What the worker left: signs of life that change as long as there are some, and an answer to one attempt."""

    def __init__(self, signs: int | None = 0, answered: str = "") -> None:
        self._signs, self._answered = signs, answered
        self.expected: list[int] = []

    def expect(self, target: str, attempt: int) -> None:
        assert target == "x86"
        self.expected.append(attempt)

    def sign(self, target: str, attempt: int) -> str | None:
        assert attempt == self.expected[-1]
        if self._signs is None:
            return None
        self._signs -= 1
        return str(max(self._signs, 0))

    def read(self, name: str, kind: type[Answer]) -> Answer | None:
        return DONE if name == self._answered else None


Use = Callable[[Client], Client]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    def put(client: Client) -> Client:
        @contextmanager
        def connected(**_: object) -> Iterator[Client]:
            yield client

        def dispatch(_: object, pool: str, order: Order) -> UUID:
            client.dispatched.append(order)
            return uuid4()

        monkeypatch.setattr(prefect_api, "get_client", connected)
        monkeypatch.setattr(worker_pool, "_dispatch", dispatch)
        return client

    return put


def build(shared: Shared, stop: threading.Event | None = None) -> Answer:
    return build_on_worker("board", ORDER, shared, stop or threading.Event(), QUICK)  # type: ignore[arg-type]


def test_the_answer_of_a_run_that_completed(use: Use) -> None:
    client = use(Client(Scheduled(), Pending(), Running(), Completed()))

    assert build(Shared(answered="x86-1")) == DONE
    assert [order.name for order in client.dispatched] == ["x86-1"]
    assert client.set == []


def test_a_failed_run_is_not_tried_again_if_its_answer_tells_why(use: Use) -> None:
    client = use(Client(Failed(message="BadInputError: no data")))

    assert build(Shared(answered="x86-1")) == DONE
    assert len(client.dispatched) == 1


def test_a_run_that_failed_without_an_answer_is_tried_again(use: Use) -> None:
    client = use(Client(Failed(message="KeyError: 1")))

    with pytest.raises(InfrastructureError, match=r"attempt 3 of 3: flow run .* ended as Failed: KeyError: 1; look at"):
        build(Shared())
    assert len(client.dispatched) == 3


def test_a_cancelled_run_is_not_tried_again(use: Use) -> None:
    client = use(Client(Cancelled(message="by a person")))

    with pytest.raises(InfrastructureError, match="ended as Cancelled: by a person"):
        build(Shared())
    assert len(client.dispatched) == 1


def test_a_run_that_crashed_is_tried_again_elsewhere(use: Use) -> None:
    client, shared = use(Client(Running(), Crashed(message="exit status 137"), Completed())), Shared(answered="x86-2")

    assert build(shared) == DONE
    assert [order.name for order in client.dispatched] == ["x86-1", "x86-2"]
    assert shared.expected == [1, 2]


def test_a_run_without_signs_of_life_is_set_to_crashed(use: Use) -> None:
    client, shared = use(Client(Running())), Shared()

    with pytest.raises(
        InfrastructureError, match=r"^pool 'board' gave no result, attempt 3 of 3: .*no sign of life for 0"
    ):
        build(shared)
    assert shared.expected == [1, 2, 3, 4], "no attempt counts any more, should one come back"
    assert [state.name for state in client.set] == ["Crashed"] * 3
    assert [order.attempt for order in client.dispatched] == [1, 2, 3]


def test_signs_of_life_keep_a_run(use: Use) -> None:
    """A hundred looks take at least twice as long as silence is borne."""
    client = use(Client(*[Running()] * 100, Completed()))

    assert build(Shared(signs=200, answered="x86-1")) == DONE
    assert client.set == []


def test_with_no_worker_online_a_run_waits_for_a_while(use: Use) -> None:
    client = use(Client(Scheduled()))
    client.status = WorkerStatus.OFFLINE

    with pytest.raises(InfrastructureError, match=r"^no worker of pool 'board' came within 0.05 s; on its hardware"):
        build(Shared())
    assert [state.name for state in client.set] == ["Cancelling"]


def test_a_busy_worker_is_waited_for(use: Use) -> None:
    use(Client(*[Scheduled()] * 100, Completed()))

    assert build(Shared(answered="x86-1")) == DONE


def test_the_wait_for_a_busy_worker_is_no_silence(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock takes 10 ms: the wait exceeds the 100 ms for the first sign by far, the start does not."""
    clock = itertools.count()
    monkeypatch.setattr(worker_pool, "time", SimpleNamespace(monotonic=lambda: next(clock) / 100))
    client = use(Client(*[Scheduled()] * 30, Pending(), Running(), Completed()))

    assert build(Shared(signs=None, answered="x86-1")) == DONE
    assert client.set == []


def test_a_release_that_is_stopped_cancels_the_run(use: Use) -> None:
    client, stop = use(Client(Running())), threading.Event()
    stop.set()

    with pytest.raises(InfrastructureError, match=r"^the release was interrupted$"):
        build(Shared(), stop)
    assert [state.name for state in client.set] == ["Cancelling"]


def test_a_prefect_that_does_not_answer_is_told(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    client = use(Client(Running()))

    def refuse(_: object) -> Any:
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(client, "read_flow_run", refuse)
    with pytest.raises(
        InfrastructureError, match=r"^Prefect did not answer: ConnectError: refused; check that its server"
    ):
        build(Shared())


def test_why_no_worker_can_be_had(use: Use) -> None:
    client = use(Client(Running()))
    assert unreachable("board") is None

    client.status = WorkerStatus.OFFLINE
    assert unreachable("board") == (
        "work pool 'board' has no worker online: on its hardware, in a checkout of this project, run `prefect worker "
        "start --pool board --limit 1` with the same PREFECT_API_URL"
    )
    client.pool.is_paused = True
    assert unreachable("board") == "work pool 'board' is paused: run `prefect work-pool resume board`"
    client.pool = None
    assert "has no work pool 'board': run `prefect work-pool create board --type process`" in str(unreachable("board"))
    client.server_type = ServerType.EPHEMERAL
    assert "needs a Prefect server, and PREFECT_API_URL names none" in str(unreachable("board"))


@pytest.mark.parametrize("error", [RuntimeError("Failed to reach API at http://x/api/"), httpx.ConnectError("refused")])
def test_a_pool_whose_prefect_is_down_is_out_of_reach(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> Any:
        raise error

    monkeypatch.setattr(prefect_api, "get_client", refuse)

    assert unreachable("board") == (
        f"work pool 'board' is out of reach: Prefect did not answer: {type(error).__name__}: {error}; check that its "
        "server is up and PREFECT_API_URL is right"
    )
