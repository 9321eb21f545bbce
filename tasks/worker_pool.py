"""Have a target built, validated and timed by a Prefect worker of its pool, and watch over that worker."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect.client.base import ServerType
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State, WorkerStatus
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling, Crashed

from slipway.config import Params
from slipway.errors import InfrastructureError, SlipwayError
from slipway.records import Artifact, Decision, Failure, Form, Record, TargetOutcome, VariantFile
from slipway.steps.budget import Budget
from slipway.steps.judge import Context
from slipway.steps.progress import Event, tell
from slipway.stores.shared_objects import SharedObjects
from tasks.prefect_api import ensure_pooled, prefect

FLOW = "build-on-target"
# By module path, so that the worker's own installation is what runs; a deployment that is there already is left alone.
ENTRYPOINT = "flows.build_on_target.build_on_target"


@dataclass(frozen=True)
class Patience:
    """How long a worker is waited for, in seconds.

    Prefect leaves a run "Running" for ever when its worker was killed together with it, so signs of life decide.
    """

    poll: float = 5.0  # a look costs milliseconds, beside benchmarks that may run on this host
    sign: float = 10.0  # how often a run leaves a sign of life
    silent: float = 90.0  # without another one it counts as dead: a store may be out of reach for a minute
    start: float = 300.0  # before the first one, Prefect and MLflow are imported, which a busy host takes long for
    alone: float = 600.0  # with no worker online; a host restarts in that time
    attempts: int = 3  # what ends a worker three times is no accident


PATIENCE = Patience()


class Supplied(Record):
    """A variant in one form as the release made it, or why there is none."""

    variant: str
    form: Form
    file: VariantFile | Failure


class Order(Record):
    """What a worker is told: the target (the only one of ``params``), what it is bound to, and where the files lie."""

    target: str
    attempt: int
    params: Params
    context: Context
    supplied: tuple[Supplied, ...]
    tracking_uri: str
    run_id: str
    sign_seconds: float
    budget: Budget | None = None
    fresh: bool = False

    @property
    def name(self) -> str:
        """Under which the worker leaves its signs of life and its answer."""
        return f"{self.target}-{self.attempt}"


class Answer(Record):
    """What a worker found, with the files that it names; or what went wrong there."""

    outcome: TargetOutcome | None = None
    artifacts: tuple[Artifact, ...] = ()
    failure: Decision | None = None


def unreachable(pool: str) -> str | None:
    """Why no worker of ``pool`` can be had now, and how to attach one; None if one is online."""
    try:
        with prefect() as client:
            return _lacking(client, pool)
    except InfrastructureError as error:
        return f"work pool {pool!r} is out of reach: {error}"


def _lacking(client: SyncPrefectClient, pool: str) -> str | None:
    start = (
        f"on its hardware, in a checkout of this project, run `prefect worker start --pool {pool} --limit 1` with "
        "the same PREFECT_API_URL"
    )
    if client.server_type is ServerType.EPHEMERAL:
        return (
            f"work pool {pool!r} needs a Prefect server, and PREFECT_API_URL names none: run `prefect server start`, "
            f"set PREFECT_API_URL, and run `prefect work-pool create {pool} --type process`; then {start}"
        )
    try:
        found = client.read_work_pool(pool)
    except ObjectNotFound:
        return (
            f"Prefect at {client.api_url} has no work pool {pool!r}: run `prefect work-pool create {pool} --type "
            f"process`; then {start}"
        )
    if found.is_paused:
        return f"work pool {pool!r} is paused: run `prefect work-pool resume {pool}`"
    if not _is_online(client, pool):
        return f"work pool {pool!r} has no worker online: {start}"
    return None


def build_on_worker(
    pool: str, order: Order, shared: SharedObjects, stop: threading.Event, patience: Patience
) -> Answer:
    """Have ``order`` carried out; a worker that dies is replaced, if another comes. ``stop`` cancels it.

    Raises:
        InfrastructureError: no worker came, every attempt died, or Prefect does not answer.
    """
    try:
        return _tried(pool, order, shared, stop, patience)
    except BaseException:
        # A worker that was cut off would go on beside the pool's next target when it is back.
        with contextlib.suppress(SlipwayError):
            shared.expect(order.target, patience.attempts + 1)
        raise


def _tried(pool: str, order: Order, shared: SharedObjects, stop: threading.Event, patience: Patience) -> Answer:
    line, why = f"target {order.target}", ""
    for attempt in range(1, patience.attempts + 1):
        tried = order.model_copy(update={"attempt": attempt})
        sign = functools.partial(shared.sign, order.target, attempt)
        shared.expect(order.target, attempt)
        with prefect() as client:
            run_id = _dispatch(client, pool, tried)
            tell(Event(line, "worker", "running", f"flow run {run_id} in pool {pool}"))
            try:
                state = _follow(client, run_id, pool, sign, stop, patience)
            except BaseException:
                client.set_flow_run_state(run_id, Cancelling(message="the release has ended"))
                raise
        if answer := shared.read(tried.name, Answer):
            return answer
        why = f"flow run {run_id} ended as {state.name}: {state.message}"
        if state.is_cancelled():
            break
        tell(Event(line, "worker", "again", why))
    raise InfrastructureError(
        f"pool {pool!r} gave no result, attempt {attempt} of {patience.attempts}: {why}; look at the worker's log, and "
        "release again"
    )


def _is_online(client: SyncPrefectClient, pool: str) -> bool:
    return any(worker.status is WorkerStatus.ONLINE for worker in client.read_workers_for_work_pool(pool))


def _dispatch(client: SyncPrefectClient, pool: str, order: Order) -> UUID:
    """The id of the flow run in ``pool``; the same order is never run twice."""
    ensure_pooled(client, FLOW, pool, ENTRYPOINT)
    run: Any = run_deployment(
        f"{FLOW}/{pool}",
        parameters={"order": order.model_dump(mode="json")},
        flow_run_name=f"{order.context.model.uri} on {order.target}, attempt {order.attempt}",
        idempotency_key=f"{order.run_id}:{order.name}",
        timeout=0,
    )
    run_id: UUID = run.id
    return run_id


class _Unchanged:
    """Tells for how long a value has been the same."""

    def __init__(self) -> None:
        self._value: object = None
        self._since = time.monotonic()

    def seconds(self, value: object) -> float:
        if value != self._value:
            self._value, self._since = value, time.monotonic()
        return time.monotonic() - self._since


def _follow(
    client: SyncPrefectClient,
    run_id: UUID,
    pool: str,
    sign: Callable[[], str | None],
    stop: threading.Event,
    patience: Patience,
) -> State[Any]:
    """The final state of the run, which is set to Crashed if it shows no life.

    Raises:
        InfrastructureError: no worker took it for too long, or the release was stopped.
    """
    life, workers = _Unchanged(), _Unchanged()
    while True:
        state = client.read_flow_run(run_id).state
        assert state is not None
        if state.is_final():
            return state
        if state.is_scheduled():
            life = _Unchanged()  # waiting for a busy worker is no silence
            online = _is_online(client, pool)
            if workers.seconds(online) > patience.alone and not online:
                raise InfrastructureError(
                    f"no worker of pool {pool!r} came within {patience.alone:g} s; on its hardware, in a checkout of "
                    f"this project, run `prefect worker start --pool {pool} --limit 1`, and release again"
                )
        elif life.seconds(latest := sign()) > (limit := patience.silent if latest else patience.start):
            message = f"it gave no sign of life for {limit:g} s, so its worker was killed or cut off"
            client.set_flow_run_state(run_id, Crashed(message=message), force=True)
            return Crashed(message=message)
        if stop.wait(patience.poll):
            raise InfrastructureError("the release was interrupted")
