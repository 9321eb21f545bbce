"""What works in the project's directory: the receiver of MLflow's webhooks, and a worker of the pool ``slipway``."""

from __future__ import annotations

import base64
import json
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from infra.stack.answers import ANSWER_SECONDS, answers_tcp
from infra.stack.layout import HOST
from infra.stack.prefect_servers import API, PREFECT
from infra.stack.services import Recipe
from infra.stack.settings import Settings
from slipway.wiring import STATE_DIRECTORY

RECEIVER, WORKER = "receiver", "worker"
POOL = "slipway"
OF_WORKERS = {
    "PREFECT_WORKER_QUERY_SECONDS": "2",  # between two looks for work; unset they are 10
    # The lowest that Prefect takes; a run whose worker was killed is found by its missing heartbeats.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    # Tried again after 2, 4 ... 64 s: two minutes, in which missing heartbeats are no death yet.
    "PREFECT_CLIENT_MAX_RETRIES": "6",
    # What the API answers while PostgreSQL or Redis is away: a run that ended just then would crash of it.
    "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",
}


def receiver_recipe(settings: Settings, environment: Mapping[str, str]) -> Recipe:
    """How the receiver is run."""
    program = str(Path(sys.executable).with_name("slipway"))
    port = settings.ports[RECEIVER]
    return Recipe(
        name=RECEIVER,
        command=lambda: (program, "receiver", f"--host={HOST}", f"--port={port}"),
        answers=lambda _: answers_tcp(port),
        needs=(API,),
        ports={RECEIVER: port},
        environment=settings.environment(RECEIVER, **environment, **_home(settings)),
        directory=settings.layout.root,
    )


def worker_recipe(settings: Settings, environment: Mapping[str, str]) -> Recipe:
    """How a worker is run: one flow run at a time; it makes its pool where that is missing."""
    name = f"{socket.gethostname()}-stack"
    own = {**OF_WORKERS, **environment, **_home(settings)}
    return Recipe(
        name=WORKER,
        command=lambda: (
            *PREFECT,
            "worker",
            "start",
            f"--pool={POOL}",
            "--type=process",
            "--limit=1",
            f"--name={name}",
        ),
        answers=lambda created: _signed_in(settings, name, created),
        needs=(API,),
        environment=settings.environment(WORKER, **own),
        directory=settings.layout.root,
    )


def _home(settings: Settings) -> dict[str, str]:
    """The project's own, as for a run without a server: what one run computed serves the next."""
    return {
        "PREFECT_HOME": str(settings.layout.root / STATE_DIRECTORY / "prefect"),
        "PREFECT_CLI_PROMPT": "false",
    }


def _signed_in(settings: Settings, worker: str, created: float) -> bool:
    """Whether the API has heard from the worker since then."""
    url = f"{settings.http(API)}/api/work_pools/{POOL}/workers/filter"
    asker = base64.b64encode(settings.prefect_auth_string.encode()).decode()
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {asker}"}
    request = urllib.request.Request(url, b"{}", headers)  # noqa: S310 - this host's
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:  # noqa: S310 - the same
            workers = json.load(answer)
    except (urllib.error.URLError, OSError):
        return False
    heard = (one["last_heartbeat_time"] for one in workers if one["name"] == worker)
    return any(datetime.fromisoformat(when).timestamp() >= created for when in heard if when)
