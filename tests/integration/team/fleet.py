"""Orders of candidates whose builds sleep, on workers of one pool; the servers between them are a team's."""

from __future__ import annotations

import contextlib
import contextvars
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from infra.provision.pools import ensure_pool
from infra.stack import Stack
from slipway.config import Params
from slipway.records import Form, VariantFile
from slipway.steps.data import check_data
from slipway.steps.export import export
from slipway.steps.fetch import fetch
from slipway.steps.judge import Context
from slipway.stores.shared_objects import SharedObjects
from slipway.wiring import Workshop, code_revision, host_hardware, workshop
from tasks.worker_pool import PATIENCE, Answer, Order, Patience, Supplied, build_on_worker
from tests.e2e.project import MODEL_URI, NAME, PARAMS, TEST_DATA, make_project
from tests.faults.napping_engine import ENDED, NAMES, Entry, read_journal, write_registration
from tests.integration.prefect_server import Worker

SERVICES = ("mlflow", "prefect-services")
POOL = "naps"
ROOT = Path(__file__).parents[3]


class Lot:
    """Orders under way, and what their builds told so far."""

    def __init__(self, orders: list[Order], shop: Workshop, shared: SharedObjects, journal: Path) -> None:
        self.orders = orders
        self._shop, self._shared, self._journal = shop, shared, journal
        self._answers: list[Future[Answer]] = []

    def send(self, threads: ThreadPoolExecutor, stop: threading.Event, patience: Patience) -> None:
        """Queue all orders at once, each followed as a release follows its own."""
        for order in self.orders:
            here = contextvars.copy_context().run  # the settings in it name the server
            self._answers.append(threads.submit(here, build_on_worker, POOL, order, self._shared, stop, patience))

    @property
    def candidates(self) -> list[str]:
        """Those asked for."""
        targets = (order.params.targets[order.target] for order in self.orders)
        return [str(settings["candidate"]) for target in targets for settings in target.settings.values()]

    @property
    def entries(self) -> list[Entry]:
        """What builds told so far."""
        return read_journal(self._journal)

    def received(self, within_seconds: float) -> list[str]:
        """The candidates whose engine files came back, once every order has its answer."""
        deadline = time.monotonic() + within_seconds
        answers = [one.result(max(deadline - time.monotonic(), 0)) for one in self._answers]
        found = list[str]()
        for answer in answers:
            assert answer.outcome is not None, answer.failure
            self._shared.fetch(self._shop.objects, answer.artifacts)
            files = [self._shop.objects.path(artifact) for artifact in answer.artifacts]
            found += [file.read_text(encoding="utf-8") for file in files]
        return found


class Fleet:
    """A release's project, its workers' project, and the way from one to the other."""

    def __init__(self, root: Path, stack: Stack) -> None:
        self._root = root
        here, self._there = root / "release", root / "workers"
        here.mkdir()
        make_project(here)
        shutil.copytree(here, self._there, ignore=shutil.ignore_patterns(".slipway"))
        write_registration(root / "registration")
        self._shop = workshop(here)
        with contextlib.chdir(here):
            self._context, self._file = _prepared(self._shop)
        self._environment = stack.environment
        _set_up(self._environment, stack.admin_environment)

    def workers(self, count: int, running: contextlib.ExitStack) -> list[Worker]:
        """So many workers, each of which takes one order at a time, in one project; ``running`` ends them."""
        home = self._there / ".slipway" / "prefect"
        home.mkdir(parents=True, exist_ok=True)
        environment = self._environment | {
            "PREFECT_HOME": str(home),
            "PYTHONPATH": f"{self._root / 'registration'}{os.pathsep}{ROOT}",
        }
        started = []
        for _ in range(count):
            started.append(Worker(POOL, self._there, environment))
            running.callback(started[-1].kill)
        for worker in started:
            worker.wait_for(worker.is_up)
        return started

    @contextlib.contextmanager
    def lot(self, name: str, orders: int, builds: int, seconds: float, patience: Patience = PATIENCE) -> Iterator[Lot]:
        """So many orders of so many builds, each of which sleeps for ``seconds``, sent when the block begins."""
        stop = threading.Event()
        with _found(self._environment), ThreadPoolExecutor(orders) as threads:
            shared = self._shop.share(NAME)
            journal = self._root / f"{name}.jsonl"
            made = [
                self._order(f"{name}-{number:02}", builds, seconds, journal, shared, patience)
                for number in range(orders)
            ]
            shared.share(self._shop.objects, [*self._context.artifacts, self._file.artifact])
            lot = Lot(made, self._shop, shared, journal)
            try:
                lot.send(threads, stop, patience)
                yield lot
            finally:
                stop.set()
                threads.shutdown(cancel_futures=True)
                shared.close()

    def _order(
        self, target: str, builds: int, seconds: float, journal: Path, shared: SharedObjects, patience: Patience
    ) -> Order:
        settings = {
            engine: {"candidate": f"{target}/{engine}", "seconds": seconds, "journal": str(journal)}
            for engine in NAMES[:builds]
        }
        described = {"engines": list(settings), "settings": settings, "work_pool": POOL}
        params = Params.model_validate(PARAMS | {"variants": ["fp32"], "targets": {target: described}})
        return Order(
            target=target,
            attempt=1,
            params=params,
            context=self._context,
            supplied=(Supplied(variant="fp32", form=Form.PROGRAM, file=self._file),),
            tracking_uri=shared.address,
            run_id=shared.run_id,
            sign_seconds=patience.sign,
        )


def _prepared(shop: Workshop) -> tuple[Context, VariantFile]:
    """The steps of a release before its candidates: what they are bound to, and built from."""
    source = fetch(shop.registry, shop.objects, shop.registry.resolve(MODEL_URI), trust_pickle=False)
    data = check_data(TEST_DATA, None, source.signature).test
    context = Context(
        model=source,
        data=data,
        calibration=None,
        code_revision=code_revision(shop.root),
        hardware=host_hardware(),
    )
    exported = export(shop.objects, source, Form.PROGRAM, data)
    return context, VariantFile(variant="fp32", form=Form.PROGRAM, artifact=exported.artifact)


def _set_up(told: Mapping[str, str], admin: Mapping[str, str]) -> None:
    """Make the account of releases and the pool, as `infra.setup` does."""
    who = (admin["MLFLOW_ADMIN_USERNAME"], admin["MLFLOW_ADMIN_PASSWORD"])
    account = {"username": told["MLFLOW_TRACKING_USERNAME"], "password": told["MLFLOW_TRACKING_PASSWORD"]}
    with httpx.Client(base_url=told["MLFLOW_TRACKING_URI"], auth=who, timeout=60) as mlflow:
        mlflow.post("/api/2.0/mlflow/users/create", json=account).raise_for_status()
    with _found(told), get_client(sync_client=True) as client:
        ensure_pool(client, POOL)


@contextlib.contextmanager
def _found(environment: Mapping[str, str]) -> Iterator[None]:
    """Let this process find the servers, as ``environment`` names them."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        with temporary_settings({one: environment[one.name] for one in (PREFECT_API_URL, PREFECT_API_AUTH_STRING)}):
            yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def ended(entries: list[Entry]) -> list[str]:
    """The candidates whose builds came to their end, in this order."""
    return [one.candidate for one in entries if one.event == ENDED]


def builds_per_second(entries: list[Entry]) -> float:
    """From the first build's start to the last one's end."""
    return len(ended(entries)) / (entries[-1].at_seconds - entries[0].at_seconds)
