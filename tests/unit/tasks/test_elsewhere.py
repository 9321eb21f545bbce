"""What of a target that is built elsewhere is decided without a worker."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from flows.build_on_target import project_of_the_worker
from flows.elsewhere import Elsewhere, not_built
from flows.targets import named_in
from slipway.errors import InfrastructureError
from slipway.records import Decision, Verdict
from slipway.steps.judge import release_of
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


def test_all_files_of_an_outcome_are_named() -> None:
    outcome, _ = not_built(PARAMS, context(), "x86", LOST)
    scores, trace = artifact("5", "scores.npz"), artifact("6", "trace.json")
    first = outcome.candidates[0].model_copy(update={"attachments": (scores,)})

    assert named_in(outcome.model_copy(update={"candidates": (first,), "reference_trace": trace})) == [scores, trace]
    assert named_in(outcome.model_copy(update={"candidates": (first,)})) == [scores]


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
