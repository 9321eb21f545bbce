from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from slipway.measure.predictions import save_predictions
from slipway.records import CandidateSpec
from slipway.reports.tables import tables
from tests.fakes.evidence import evidence, release

CHOSEN, OTHER = "a" * 64, "b" * 64


CANDIDATES = (
    evidence(CHOSEN),
    evidence(OTHER, spec=CandidateSpec(target="x86", variant="bf16", engine="openvino")),
    evidence(None, spec=CandidateSpec(target="x86", variant="bf16", engine="torch"), accuracy=None, timing=None),
)


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]], dtype=np.float32)
    save_predictions(tmp_path / "predictions.npz", {"y": scores}, np.array([0, 1, 1]))
    return tmp_path / "predictions.npz"


def written(answers: Path, chosen: str | None = CHOSEN) -> dict[str, str]:
    done = release(*CANDIDATES)
    outcome = done.targets[0].model_copy(update={"chosen": chosen})
    return tables(done.model_copy(update={"targets": (outcome,)}), lambda _: answers)


def test_the_summary_holds_the_chosen_candidate_alone(answers: Path) -> None:
    assert json.loads(written(answers)["metrics.json"]) == {
        "x86": {"chosen": "fp32/onnxruntime", "accuracy": 0.98, "p50_ms": 1.0, "drop": 0.001, "verdict": "PASS"}
    }


def test_what_is_asked_for_most_stands_where_a_narrow_terminal_shows_it(answers: Path) -> None:
    assert list(json.loads(written(answers)["metrics.json"])["x86"]) == [
        *("chosen", "accuracy", "p50_ms", "drop", "verdict")
    ]


def test_without_a_choice_the_summary_says_so(answers: Path) -> None:
    assert json.loads(written(answers, chosen=None)["metrics.json"])["x86"]["chosen"] == "none"


def test_each_measured_candidate_has_a_file_of_its_own(answers: Path) -> None:
    files = written(answers)

    assert [name for name in files if name.startswith("candidates/")] == [
        "candidates/x86/fp32-onnxruntime.json",
        "candidates/x86/bf16-openvino.json",
    ]
    # The fake latency has too few samples for a p99.
    assert set(json.loads(files["candidates/x86/bf16-openvino.json"])) == {
        "accuracy",
        "drop",
        "drop_upper",
        "latency_p50_ms",
        "speedup",
        "size_bytes",
    }


def test_the_plots_have_one_row_per_mark(answers: Path) -> None:
    files = written(answers)

    assert files["x86/pareto.csv"].splitlines()[:2] == [
        "candidate,role,percentile,latency_ms,drop,drop_upper",
        "fp32/onnxruntime,chosen,p50,1.0,0.1,0.4",
    ]
    assert files["x86/latency.csv"].splitlines()[:4] == [
        "candidate,percentile,latency_ms",
        "reference,p50,1.0",
        "reference,p90,1.5",
        "fp32/onnxruntime,p50,1.0",
    ]
    assert files["x86/confusion.csv"].splitlines() == ["actual,predicted", "0,0", "1,1", "1,0"]


def test_a_regression_model_has_no_confusion(tmp_path: Path) -> None:
    answers = tmp_path / "predictions.npz"
    save_predictions(answers, {"y": np.array([[0.5], [1.5]])}, np.array([0.4, 1.4]))

    assert written(answers)["x86/confusion.csv"] == "actual,predicted\n"
