"""Data that no release can be made of, met with the real program: one clear line, exit code 2, and no run left open."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from slipway.stores.datasets import write_shards
from slipway.stores.tracking import track
from slipway.wiring import workshop
from tests.e2e.project import MODEL_URI, TEST_DATA, target, write_params
from tests.integration.conftest import Project

pytestmark = [pytest.mark.integration, pytest.mark.slow]

X = np.random.default_rng(0).normal(size=(40, 64)).astype(np.float32)
LABELS = np.arange(40) % 5
LAST = "shard-00001.npz"
Fault: TypeAlias = Callable[[Path], None]


@pytest.fixture(scope="module")
def prefect() -> Iterator[dict[str, str]]:
    """The environment that leads to one Prefect server for all releases here, and is as quiet as the embedded one."""
    with prefect_test_harness(server_startup_timeout=120):
        levels = {"PREFECT_LOGGING_LEVEL": "CRITICAL", "PREFECT_LOGGING_ROOT_LEVEL": "ERROR"}
        yield {"PREFECT_API_URL": PREFECT_API_URL.value(), **levels}


def no_shards(directory: Path) -> None:
    for shard in directory.iterdir():
        shard.unlink()


def no_examples(directory: Path) -> None:
    np.savez(directory / LAST, x=X[:0], target=LABELS[:0])


def a_label_too_high(directory: Path) -> None:
    np.savez(directory / LAST, x=X[:3], target=np.array([0, 5, 1]))


def nan_in_inputs(directory: Path) -> None:
    np.savez(directory / LAST, x=np.where(X > 2, np.nan, X), target=LABELS)


def another_shape(directory: Path) -> None:
    write_shards(directory, {"x": X[:, :32]}, LABELS, shard_size=20)


def other_keys(directory: Path) -> None:
    np.savez(directory / LAST, x=X, target=LABELS, weight=LABELS)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (no_shards, rf"data {TEST_DATA} holds no \.npz shards; "),
        (no_examples, rf"{TEST_DATA}/{LAST}: array 'x' holds no examples; "),
        (
            a_label_too_high,
            rf"metric 'top1' cannot score array 'target' of {TEST_DATA}/{LAST}: .* found 0\.\.5$",
        ),
        (nan_in_inputs, rf"{TEST_DATA}/{LAST}: array 'x' holds NaN or infinity; "),
        (
            another_shape,
            rf"{TEST_DATA}/shard-00000\.npz: array 'x' is float32\[32\] .* is float32\[64\]; ",
        ),
        (other_keys, rf"{TEST_DATA}/{LAST} has arrays target, weight, x, the first target, x; "),
    ],
    ids=lambda case: getattr(case, "__name__", ""),
)
def test_bad_data_end_a_release_with_one_line_that_names_file_and_array(
    fault: Fault, said: str, project: Project, prefect: dict[str, str]
) -> None:
    directory = project.root / TEST_DATA
    write_params(project.root, variants=["fp32"], targets=target(engines=["torch"]))
    write_shards(directory, {"x": X}, LABELS, shard_size=20)
    fault(directory)
    track(directory)

    code, command = project.run("release", MODEL_URI, "--json", **prefect)

    assert (code, command.object["exit_code"]) == (2, 2)
    assert re.match(said, command.object["error"])
    assert "\n" not in command.object["error"]
    assert "Traceback" not in command.stderr
    assert statuses(project) <= {"FINISHED"}


def statuses(project: Project) -> set[str]:
    """Of every MLflow run of the project."""
    client = workshop(project.root).registry._connection.client
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return {run.info.status for run in client.search_runs(experiments)}
