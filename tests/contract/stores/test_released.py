"""Every registry tells which versions there are, and which of them a release has come to its end of."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from slipway.decisions.reconciliation import FinishedRelease
from slipway.records import Decision, Release, Verdict
from slipway.stores.mlflow_registry import MlflowRegistry
from slipway.stores.mlflow_releases import pages
from slipway.stores.registry import Registry
from tests.fakes.evidence import DATA_MD5, SIGNATURE, evidence, release


def of(name: str, version: str, verdict: Verdict = Verdict.FAIL, data_md5: str = DATA_MD5) -> Release:
    plain = release(evidence(None, timing=None), model=name)
    (outcome,) = plain.targets
    ended = outcome.model_copy(update={"decision": Decision(verdict=verdict, reasons=("so it is",)), "chosen": None})
    model = plain.model.model_copy(update={"version": version, "uri": f"models:/{name}/{version}"})
    return plain.model_copy(update={"model": model, "targets": (ended,), "data_md5": data_md5})


def test_versions_come_the_newest_first(registry: Registry, name: str) -> None:
    import torch

    assert registry.versions(name) == []
    for _ in range(11):
        registry.log_model(torch.nn.Linear(4, 2).eval(), SIGNATURE, {"x": np.zeros((2, 4), np.float32)}, name)
    assert registry.versions(name) == [str(number) for number in range(11, 0, -1)]


def test_a_release_has_ended_whatever_its_gates_said_unless_something_broke_down(registry: Registry, name: str) -> None:
    assert registry.released(name) == []
    for ended in (
        of(name, "1"),
        of(name, "2", Verdict.INCONCLUSIVE, "another.dir"),
        of(name, "3", Verdict.ERROR),
        of(f"{name}-other", "4"),
    ):
        registry.record_release(ended, {}, [])

    assert registry.released(name) == [FinishedRelease("2", "another.dir"), FinishedRelease("1", DATA_MD5)]


def test_a_release_names_what_made_it_first(mlflow_registry: MlflowRegistry, name: str, tmp_path: Path) -> None:
    run_id = mlflow_registry.record_release(of(name, "1"), {}, []).run_id

    for address in ("http://prefect/1", "http://prefect/2"):
        mlflow_registry.link_release(run_id, address)

    tags = mlflow_registry._connection.client.get_run(run_id).data.tags
    assert tags["slipway.prefect_run"] == "http://prefect/1"
    assert "](http://prefect/1)" in tags["mlflow.note.content"]
    assert mlflow_registry.release_pages(run_id) == {}, "no server shows an embedded store"


def test_the_pages_of_a_release_are_mlflows_own() -> None:
    """The forms that MLflow 3.17's page has routes for; without the view it opens where no runs are shown."""
    runs = [SimpleNamespace(info=SimpleNamespace(run_id=run_id)) for run_id in ("b", "a")]
    run = SimpleNamespace(info=SimpleNamespace(experiment_id="7"))
    connection: Any = SimpleNamespace(
        tracking_uri="http://ann:secret@mlflow.example.org/",
        client=SimpleNamespace(get_run=lambda _: run),
        search_runs=lambda *_: runs,
    )

    found = pages(connection, "r1")

    base, view = "http://mlflow.example.org/#", "workflowType=machine_learning"
    assert found == {
        "the release in MLflow": f"{base}/experiments/7/runs/r1?{view}",
        "its candidates compared": f"{base}/compare-runs?runs=%5B%22a%22%2C%22b%22%5D&experiments=%5B%227%22%5D&{view}",
    }
