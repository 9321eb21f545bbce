"""One target of a release that runs elsewhere, built and measured on the hardware that it names: this one."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE, temporary_settings

from flows.lanes import Supply, start_target
from flows.place import project_of_the_worker
from flows.targets import RUNNER, conclude_target, follow, healed, named_in
from slipway.errors import BadInputError, SlipwayError
from slipway.records import DataSource, Decision, VariantFile, Verdict
from slipway.stores.shared_objects import SharedObjects
from slipway.stores.tracking import verify
from slipway.wiring import (
    Workshop,
    check_available_settings,
    check_threads,
    code_revision,
    host_hardware,
    workshop,
)
from tasks.worker_pool import FLOW, Answer, Order

LOST_EXIT_CODE = 5


@flow(name=FLOW, task_runner=RUNNER)
def build_on_target(order: Order) -> None:
    """Carry out ``order`` in the project of the worker that runs this, and leave the answer where it says.

    Raises:
        SlipwayError: the order cannot be carried out here; the answer says so too.
    """
    with contextlib.chdir(project_of_the_worker()), temporary_settings(_settings(order)):
        shop = workshop(tracking_uri=order.tracking_uri)
        shared = shop.shared(order.run_id)
        with shared.signs_of_life(order.target, order.attempt, order.sign_seconds, _end):
            try:
                answer = healed(lambda: _answer(order, shop, shared))
            except SlipwayError as error:
                reasons = (f"on {socket.gethostname()}: {error}",)
                failure = Decision(verdict=Verdict.of_error(error), reasons=reasons)
                shared.write(order.name, Answer(failure=failure))
                raise
            shared.write(order.name, answer)


def _answer(order: Order, shop: Workshop, shared: SharedObjects) -> Answer:
    target = order.params.targets[order.target]
    check_available_settings(target)
    check_threads(order.target, target)
    _check_data(order.context.data)
    revision = code_revision(shop.root)
    context = order.context.model_copy(update={"hardware": host_hardware(), "code_revision": revision})
    files = [one.file.artifact for one in order.supplied if isinstance(one.file, VariantFile)]
    shared.fetch(shop.objects, [*context.artifacts, *files])
    supplies = {(one.variant, one.form): Supply(one.file) for one in order.supplied}
    lanes = start_target(order.params, order.target, shop.objects, context, supplies, order.budget)
    follow([lanes], context)
    outcome, engines = conclude_target(order.params, shop, context, lanes, order.budget)
    shared.share(shop.objects, (*engines, *named_in(outcome)))
    return Answer(outcome=outcome, artifacts=tuple(engines))


def _check_data(wanted: DataSource) -> None:
    """Hash the test data of this host.

    Raises:
        BadInputError: they are missing, changed, or other data than the release's.
    """
    found = verify(Path(wanted.path))
    if found.md5 != wanted.md5:
        raise BadInputError(
            f"data {wanted.path} has md5 {found.md5}, the release's has {wanted.md5}; bring this checkout to the "
            f"release's revision and run `dvc pull {wanted.path}` here"
        )


def _settings(order: Order) -> dict[Any, bool]:
    return {PREFECT_TASKS_REFRESH_CACHE: True} if order.fresh else {}


def _end() -> None:
    """End at once: nobody waits for the answer, and a benchmark on this host may have begun that this would disturb."""
    sys.stderr.write("slipway: the release has ended, or another attempt took this run's place, and so it ends\n")
    sys.stderr.flush()
    os._exit(LOST_EXIT_CODE)
