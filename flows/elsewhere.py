"""The targets of a release that are built elsewhere: each sent to a worker of its pool, beside what runs here."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from prefect.settings import PREFECT_TASKS_REFRESH_CACHE

from flows.lanes import Supplies
from flows.targets import Concluded, named_in
from slipway.config import Params
from slipway.errors import InfrastructureError, SlipwayError
from slipway.records import Decision, Failure, TargetOutcome, VariantFile, Verdict
from slipway.steps.budget import Budget
from slipway.steps.candidates import candidates
from slipway.steps.judge import Context, judge
from slipway.steps.progress import Event, tell
from slipway.stores.objects import DamagedObjectError, MissingObjectError
from slipway.stores.shared_objects import SharedObjects
from slipway.wiring import Workshop, unknown_hardware, wanted_forms
from tasks import worker_pool
from tasks.worker_pool import Answer, Order, Supplied


@dataclass(frozen=True)
class Elsewhere:
    """What a release has running elsewhere, by target; ``skipped`` are those that no worker can take."""

    skipped: Mapping[str, str] = field(default_factory=dict)
    running: Mapping[str, Future[Concluded]] = field(default_factory=dict)

    def conclude(self, params: Params, context: Context, name: str) -> Concluded:
        """Wait for the outcome of a target, with the engine files that it is about, which are here then.

        Raises:
            MissingObjectError, DamagedObjectError: the object store lost what a worker needed.
        """
        if name in self.skipped:
            return not_built(params, context, name, Decision(verdict=Verdict.SKIPPED, reasons=(self.skipped[name],)))
        try:
            return self.running[name].result()
        except (MissingObjectError, DamagedObjectError):
            raise  # says nothing about the target
        except SlipwayError as error:
            decision = Decision(verdict=Verdict.of_error(error), reasons=(str(error),))
            tell(Event(f"target {name}", "worker", decision.verdict, str(error)))
            return not_built(params, context, name, decision)


def out_of_reach(params: Params) -> dict[str, str]:
    """Why no worker can take a target, by target, for those with a work pool that has none."""
    found = {
        name: worker_pool.unreachable(target.work_pool) for name, target in params.targets.items() if target.work_pool
    }
    return {name: reason for name, reason in found.items() if reason}


@contextmanager
def start_elsewhere(
    params: Params,
    shop: Workshop,
    context: Context,
    supplies: Supplies,
    budget: Budget | None,
    skipped: Mapping[str, str],
) -> Iterator[Elsewhere]:
    """Send every target with a work pool to it; when the block is left early, they are cancelled.

    A pool gets one target at a time: on one worker a build would disturb the benchmark of the other.
    """
    for name, reason in skipped.items():
        tell(Event(f"target {name}", "worker", Verdict.SKIPPED, reason))
    sent = {name: pool for name, t in params.targets.items() if (pool := t.work_pool) and name not in skipped}
    if not sent:
        yield Elsewhere(skipped)
        return
    shared, stop = shop.share(context.model.name), threading.Event()
    queues = {pool: ThreadPoolExecutor(max_workers=1, thread_name_prefix=pool) for pool in sent.values()}
    try:
        yield Elsewhere(
            skipped,
            {
                # In the context of this flow run, so that Prefect shows the worker's as part of it.
                name: queues[pool].submit(
                    contextvars.copy_context().run,
                    _build,
                    pool,
                    _order(params, context, name, budget, shared),
                    shop,
                    supplies,
                    shared,
                    stop,
                )
                for name, pool in sent.items()
            },
        )
    finally:
        stop.set()
        for queue in queues.values():
            queue.shutdown(cancel_futures=True)
        with suppress(InfrastructureError):  # then the next release of this project closes it
            shared.close()


def _order(params: Params, context: Context, name: str, budget: Budget | None, shared: SharedObjects) -> Order:
    return Order(
        target=name,
        attempt=1,
        params=params.model_copy(update={"targets": {name: params.targets[name]}}),
        context=context,
        supplied=(),
        tracking_uri=shared.address,
        run_id=shared.run_id,
        sign_seconds=worker_pool.PATIENCE.sign,
        budget=budget,
        fresh=PREFECT_TASKS_REFRESH_CACHE.value(),
    )


def _build(
    pool: str, order: Order, shop: Workshop, supplies: Supplies, shared: SharedObjects, stop: threading.Event
) -> Concluded:
    """Give the worker what it builds from, and take what it made into the object store of this host."""
    wanted = wanted_forms(candidates(order.params, order.target))
    supplied = tuple(Supplied(variant=v, form=form, file=supplies[v, form].wait()) for v, form in wanted)
    files = [one.file.artifact for one in supplied if isinstance(one.file, VariantFile)]
    shared.share(shop.objects, [*order.context.artifacts, *files])
    full = order.model_copy(update={"supplied": supplied})
    answer = worker_pool.build_on_worker(pool, full, shared, stop, worker_pool.PATIENCE)
    return _received(order, answer, shop, shared)


def _received(order: Order, answer: Answer, shop: Workshop, shared: SharedObjects) -> Concluded:
    line = f"target {order.target}"
    if answer.outcome is None:
        decision = answer.failure or Decision(verdict=Verdict.ERROR, reasons=("its worker sent no outcome",))
        tell(Event(line, "worker", decision.verdict, decision.reasons[0]))
        return not_built(order.params, order.context, order.target, decision)
    shared.fetch(shop.objects, (*answer.artifacts, *named_in(answer.outcome)))
    tell(Event(line, "worker", "done", f"on {answer.outcome.hardware.cpu}"))
    return answer.outcome, list(answer.artifacts)


def not_built(params: Params, context: Context, name: str, decision: Decision) -> Concluded:
    """The outcome of a target of which nothing is known but why; so with each of its candidates."""
    nowhere = context.model_copy(update={"hardware": unknown_hardware()})
    told = Decision(verdict=decision.verdict, reasons=(f"not built, like all of target {name}",))
    nothing = Failure(step="worker", decision=told)
    evidences = [judge(nowhere, spec, params, nothing, nothing, nothing) for spec in candidates(params, name)]
    outcome = TargetOutcome(
        target=name,
        decision=decision,
        chosen=None,
        tied=(),
        pareto=(),
        hardware=nowhere.hardware,
        reference_value=None,
        reference_latency=None,
        candidates=tuple(evidences),
    )
    return outcome, []
