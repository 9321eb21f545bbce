"""What of a target that is built elsewhere is decided without a worker."""

from __future__ import annotations

import math
import tempfile
import threading
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from flows.elsewhere import Elsewhere, not_built, start_elsewhere
from flows.lanes import Supplies, Supply
from flows.place import project_of_the_worker
from flows.targets import named_in
from slipway.errors import InfrastructureError
from slipway.records import Decision, Failure, Verdict
from slipway.steps.judge import release_of
from tasks import worker_pool
from tasks.worker_pool import Answer, Order
from tests.unit.steps.records import PARAMS, artifact, context

LOST = Decision(verdict=Verdict.ERROR, reasons=("no worker came",))


def test_a_target_that_was_not_built_keeps_its_place_with_every_candidate() -> None:
    outcome, engines = not_built(PARAMS, context(), "x86", LOST)

    assert engines == []
    assert outcome.decision == LOST
    assert [(str(e.spec), e.decision.verdict) for e in outcome.candidates] == [
        ("fp32/torch", Verdict.ERROR),
        ("fp32/onnxruntime", Verdict.ERROR),
    ]
    assert outcome.candidates[0].decision.reasons == ("worker: not built, like all of target x86",)
    assert outcome.hardware.cpu == "unknown", "and not this host's"
    assert outcome.reference_value is None or math.isnan(outcome.reference_value)
    assert release_of(context(), "top1", [outcome]).targets == (outcome,)


def test_a_target_without_a_worker_is_skipped_with_the_reason() -> None:
    outcome, _ = Elsewhere(skipped={"x86": "no worker"}).conclude(PARAMS, context(), "x86")

    assert outcome.decision == Decision(verdict=Verdict.SKIPPED, reasons=("no worker",))


class Shop:
    """A workshop whose shared place takes everything, and is closed at the end."""

    objects = None

    def __init__(self) -> None:
        self.closed = False

    def share(self, name: str) -> Any:
        return SimpleNamespace(address="http://mlflow", run_id="1", share=lambda *_: None, close=self._close)

    def _close(self) -> None:
        self.closed = True


def test_a_pool_gets_one_target_at_a_time_and_pools_work_beside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    pools = {"a": "board", "b": "board", "c": "other"}
    targets = {name: PARAMS.targets["x86"].model_copy(update={"work_pool": pool}) for name, pool in pools.items()}
    params = PARAMS.model_copy(update={"targets": targets})
    both, again, at_work, most = threading.Barrier(2), threading.Event(), Counter[str](), Counter[str]()

    def build_on_worker(pool: str, order: Order, *_: object) -> Answer:
        at_work[pool] += 1
        most[pool] = max(most[pool], at_work[pool])
        if order.target == "b":
            again.set()
        else:
            both.wait(30)  # for the other pool
            again.wait(0.2)  # set in that time only if the pool's second target does not wait for its first
        at_work[pool] -= 1
        return Answer(failure=LOST)

    monkeypatch.setattr(worker_pool, "build_on_worker", build_on_worker)
    shop = Shop()
    supplies: Supplies = defaultdict(lambda: Supply(Failure(step="export", decision=LOST)))
    with start_elsewhere(params, shop, context(), supplies, None, {}) as elsewhere:  # type: ignore[arg-type]
        concluded = [elsewhere.conclude(params, context(), name)[0] for name in pools]

    assert [(outcome.target, outcome.decision) for outcome in concluded] == [(name, LOST) for name in pools]
    assert most == {"board": 1, "other": 1}
    assert shop.closed


def test_all_files_of_an_outcome_are_named() -> None:
    outcome, _ = not_built(PARAMS, context(), "x86", LOST)
    scores, trace = artifact("5", "scores.npz"), artifact("6", "trace.json")
    first = outcome.candidates[0].model_copy(update={"attachments": (scores,)})

    assert named_in(outcome.model_copy(update={"candidates": (first,), "reference_trace": trace})) == [scores, trace]
    assert named_in(outcome.model_copy(update={"candidates": (first,)})) == [scores]


def test_a_worker_is_given_all_that_the_release_is_bound_to() -> None:
    inputs = artifact("7", "inputs.json")
    bound = context()

    assert bound.artifacts == (bound.model.program,)
    assert bound.model_copy(update={"inputs": inputs}).artifacts == (bound.model.program, inputs)


def test_the_project_is_where_the_run_is_or_where_the_worker_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert project_of_the_worker() == tmp_path, "as set by the work pool"

    with tempfile.TemporaryDirectory(suffix="prefect") as given:
        monkeypatch.chdir(given)
        worker = SimpleNamespace(cwd=lambda: str(tmp_path), cmdline=lambda: ["prefect", "worker", "start", "-p", "x"])
        other = SimpleNamespace(cwd=lambda: "/", cmdline=lambda: ["init"])
        monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(parents=lambda: [other, worker]))
        assert project_of_the_worker() == tmp_path

        monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(parents=lambda: [other]))
        with pytest.raises(
            InfrastructureError, match=r"^found no `prefect worker start` .* set working_dir on its work"
        ):
            project_of_the_worker()
        monkeypatch.chdir(tmp_path)
