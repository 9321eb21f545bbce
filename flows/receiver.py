"""The webhook receiver: what MLflow tells becomes an event of Prefect, now or once Prefect is back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

import uvicorn
from prefect.settings import get_current_settings

from slipway.config import load_params
from slipway.errors import BadInputError, InfrastructureError
from slipway.records import ReleaseRequest
from slipway.serving.http.limits import Limits
from slipway.serving.http.server import bound, guarded_config, open_files, run
from slipway.stores.registry import parse_model_uri
from slipway.triggers.app import BODY_BYTES, BODY_SECONDS, Receiver
from slipway.triggers.decide import Asked, Released
from slipway.triggers.deliveries import Deliveries
from slipway.triggers.handover import OURSELVES, Handover
from slipway.triggers.log import Log
from slipway.triggers.metrics import Figures
from slipway.triggers.signature import secret_from
from slipway.wiring import STATE_DIRECTORY, project_params
from tasks.events import ANSWER_SECONDS, ask_for_release, ask_for_rollout, holds_event
from tasks.prefect_api import NotLetInError, asked_once, check_prefect

CONNECTIONS = 256
OWN_FILES = 128
DRAIN_SECONDS = 10
START_SECONDS = 10.0  # for Prefect's first answer, on which nothing but a wrong string depends


class PrefectBus:
    """Prefect, as `PREFECT_API_URL` finds it."""

    def ask(self, asked: Asked, key: str) -> UUID:
        """Ask for a release or a rollout."""
        with _out_of_reach():
            return ask_for_release(asked, key) if isinstance(asked, ReleaseRequest) else ask_for_rollout(asked, key)

    def holds(self, event_id: UUID) -> bool:
        """Whether the event is written down."""
        with _out_of_reach():
            return holds_event(event_id)

    def check(self) -> None:
        """See whether it answers."""
        with _out_of_reach():
            check_prefect(ANSWER_SECONDS)


@contextmanager
def _out_of_reach() -> Iterator[None]:
    """Take a server that lets nobody in for one that is away: the delivery is in order, and waits."""
    try:
        yield
    except NotLetInError as error:
        raise InfrastructureError(str(error)) from None  # what is told is the root of a chain


def released(root: Path) -> dict[str, Released]:
    """What the project in ``root`` releases, read anew.

    Raises:
        BadInputError: a file of parameters is wrong, or there is none.
    """
    found = {}
    for name, file in project_params(root).items():
        params = load_params(file)
        alias = parse_model_uri(params.model)[2]
        found[name] = Released(params=str(file.relative_to(root)), alias=alias, targets=tuple(params.targets))
    return found


def serve(host: str, port: int, window_s: float, opened: Callable[[str], None]) -> None:
    """Receive MLflow's webhook for the project in the current directory, until SIGTERM or Ctrl-C.

    ``opened`` is told the URL once it listens.

    Raises:
        BadInputError: the secret or PREFECT_API_URL is not set, Prefect asks for another string than it is given, the
            project has no parameters, or the address is taken.
        InfrastructureError: deliveries cannot be kept.
    """
    secret, root, log = secret_from(os.environ), Path.cwd(), Log()
    prefect = get_current_settings().api.url
    if prefect is None or not prefect.startswith(("http://", "https://")):
        found = "not set" if prefect is None else f"{prefect!r}, which is no address of a server"
        raise BadInputError(
            f"PREFECT_API_URL is {found}; set it to http://HOST:PORT/api of Prefect's server, which starts what the "
            "webhook asks for"
        )
    models = released(root)
    store = Deliveries(root / STATE_DIRECTORY / "deliveries.db")
    store.standing()  # a store that cannot be used is told now
    figures = Figures(store.standing)
    receiver = Receiver(secret, store, lambda: released(root), figures, log, window_s)
    handover = Handover(store, PrefectBus(), receiver.decide, figures, log)
    receiver.wake, receiver.contact = handover.wake, lambda: handover.contact
    with bound(host, port) as listening:
        _check_string()  # who delivers meanwhile is kept waiting, not refused
        where = f"http://{host}:{listening.getsockname()[1]}/mlflow"
        log.tell(OURSELVES, "listening", f"releases of {', '.join(models)}", url=where, pid=os.getpid())
        opened(where)
        handover.start()
        try:
            run(_server(receiver), listening)
        finally:
            handover.stop()
            log.tell(OURSELVES, "ended", "it was told to", pid=os.getpid())


def _check_string() -> None:
    """See that Prefect lets this process in; one that is away is asked again later.

    Raises:
        NotLetInError: it does not.
    """
    with suppress(InfrastructureError), asked_once():
        check_prefect(START_SECONDS)


def _server(receiver: Receiver) -> uvicorn.Server:
    limits = Limits(body_bytes=BODY_BYTES, body_seconds=BODY_SECONDS, drain_seconds=DRAIN_SECONDS)
    most = max(min(CONNECTIONS, open_files(CONNECTIONS + OWN_FILES) - OWN_FILES), 8)
    return uvicorn.Server(guarded_config(receiver.app(), limits, most, lifespan="off", log_level="critical"))
