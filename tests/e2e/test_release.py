from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from slipway.engines import engine
from slipway.engines.base import RunOptions
from slipway.errors import BadInputError
from slipway.measure.example import load_example
from slipway.records import InputSummaries, Verdict
from slipway.stores.mlflow_registry import MlflowRegistry
from slipway.stores.objects import digest_of
from slipway.wiring import workshop
from tests.e2e import breaking
from tests.e2e.conftest import Released, Slipway
from tests.e2e.project import ENGINE, MODEL_URI, NAME, target, write_params


def runs(registry: MlflowRegistry) -> dict[str, str]:
    """The status of every MLflow run by its id."""
    client = registry._connection.client
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return {run.info.run_id: run.info.status for run in client.search_runs(experiments)}


def test_the_best_engine_becomes_champion_with_its_evidence(released: Released, tmp_path: Path) -> None:
    result = released.result
    assert result.verdict is Verdict.PASS
    (outcome,) = result.release.targets
    verdicts = {str(one.spec): one.decision.verdict for one in outcome.candidates}
    assert verdicts == {
        "fp32/torch": Verdict.PASS,
        "fp32/onnxruntime": Verdict.PASS,
        "int8-dynamic/torch": Verdict.SKIPPED,
        "int8-dynamic/onnxruntime": Verdict.PASS,
    }

    registry = workshop(released.root).registry
    champion = registry.version(ENGINE, str(registry.champion(ENGINE)))
    assert champion.evidence in outcome.candidates
    assert champion.digest == champion.evidence.digest == outcome.chosen
    assert digest_of(registry.engine_path(ENGINE, champion.version, tmp_path)) == outcome.chosen
    assert champion.evidence.spec.engine == "onnxruntime"
    assert set(champion.evidence.gates) >= {"accuracy", "timing"}
    assert set(runs(registry).values()) == {"FINISHED"}


def test_what_serving_needs_lies_beside_the_champion(released: Released, tmp_path: Path) -> None:
    """A few examples with this very engine's answers, and what its inputs look like; here in the test data."""
    registry = workshop(released.root).registry
    evidence = registry.version(ENGINE, "1").evidence

    companions = registry.companions(ENGINE, "1", tmp_path / "beside")

    example = load_example(companions["example.npz"])
    path = registry.engine_path(ENGINE, "1", tmp_path / "engine")
    with engine(evidence.spec.engine).load(path, RunOptions(threads=1)) as session:
        answers = [session.infer({"x": one[np.newaxis]})["logits"] for one in example.inputs["x"]]
    np.testing.assert_array_equal(np.concatenate(answers), example.outputs["logits"])
    assert len(set(example.target.tolist())) == 5
    inputs = InputSummaries.model_validate_json(companions["inputs.json"].read_text())
    assert (inputs.source, inputs.md5) == ("test", evidence.data_md5)
    assert [(one.name, one.examples) for one in inputs.inputs] == [("x", 200)]


def test_a_second_release_reuses_everything_and_changes_nothing(slipway: Slipway, registry: MlflowRegistry) -> None:
    before = runs(registry), registry.aliases(ENGINE), registry.version(ENGINE, "1")

    ended = slipway("release", MODEL_URI)

    assert ended.code == 0
    assert ended.stdout.endswith(f"PASS: {ENGINE} version 1 is the champion already\n")
    told = dict(re.findall(r"^(\S.*?)  +(?:\w+) +(cached|done|SKIPPED)", ended.stderr, re.MULTILINE))
    assert told.pop("int8-dynamic/torch") == "SKIPPED"
    assert [line for line, status in told.items() if status != "cached"] == ["data", "release", f"{ENGINE} version 1"]
    assert (runs(registry), registry.aliases(ENGINE), registry.version(ENGINE, "1")) == before
    with pytest.raises(BadInputError, match="no version 2"):
        registry.version(ENGINE, "2")


def test_json_is_the_contract_and_nothing_else(slipway: Slipway, released: Released) -> None:
    ended = slipway("release", MODEL_URI, "--json")

    assert ended.code == 0
    printed = ended.object
    assert list(printed) == ["model", "model_sha256", "data_md5", "code_revision", "seconds", "targets"]
    assert (printed["model"], printed["data_md5"]) == (MODEL_URI, released.result.release.data_md5)
    (told,) = printed["targets"].values()
    assert list(told) == ["verdict", "reasons", "chosen", "hardware", "reference", "candidates"]
    assert told["verdict"] == "PASS"
    assert told["reference"].keys() == {"metric", "value", "latency_p50_ms", "latency_p99_ms"}
    assert told["reference"]["value"] == 1.0
    for one in told["candidates"]:
        assert one["reasons"]
        assert (one["registered"] == f"models:/{ENGINE}/1") == (one["digest"] == told["chosen"])
    skipped = next(one for one in told["candidates"] if one["verdict"] == "SKIPPED")
    assert (skipped["digest"], skipped["accuracy"], skipped["latency"]) == (None, None, None)


def test_a_gate_that_nothing_passes_leaves_the_champion(
    slipway: Slipway, registry: MlflowRegistry, project: Path
) -> None:
    write_params(project, variants=["fp32"], targets=target(slo={"size_mb": 1e-6}))

    ended = slipway("release", MODEL_URI, "--json")

    assert ended.code == 3
    told = ended.object["targets"]["x86"]
    assert (told["verdict"], told["chosen"]) == ("FAIL", None)
    assert "exceeds the 1e-06 MB demanded" in told["reasons"][0]
    assert registry.aliases(ENGINE) == {"champion": "1"}
    assert {one.decision.verdict for one in registry.candidates(NAME, "x86")[:1]} == {Verdict.FAIL}


@pytest.mark.integration
def test_a_candidate_that_crashes_stops_no_other(
    slipway: Slipway, registry: MlflowRegistry, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.build.build_step", breaking.build)
    write_params(project, targets={"small": target()["x86"]})  # of another name, so that it is built anew

    ended = slipway("release", MODEL_URI, "--json")

    assert ended.code == 0
    passed, crashed = ended.object["targets"]["small"]["candidates"]
    assert (passed["verdict"], passed["registered"]) == ("PASS", f"models:/{NAME}.small/1")
    assert crashed["verdict"] == "ERROR"
    assert "SIGABRT" in crashed["reasons"][0]
    assert registry.champion(f"{NAME}.small") == "1"
    assert set(runs(registry).values()) == {"FINISHED"}


def test_a_reference_that_cannot_be_judged_is_told_plainly(slipway: Slipway, project: Path) -> None:
    write_params(project, accuracy={"metric": "mae"})

    ended = slipway("release", MODEL_URI, "--json")

    assert (ended.code, ended.object["exit_code"]) == (2, 2)
    assert "cannot score array 'target' of data/test/shard-00000.npz: outputs (32, 5)" in ended.object["error"]


@pytest.mark.integration
def test_a_budget_that_is_spent_tells_what_was_not_measured(slipway: Slipway, project: Path) -> None:
    write_params(project, targets={"late": target()["x86"]})  # of another name, so that nothing comes from the cache

    ended = slipway("release", MODEL_URI, "--budget", "1s", "--json")

    assert ended.code == 4
    for one in ended.object["targets"]["late"]["candidates"]:
        assert one["verdict"] == "INCONCLUSIVE"
        assert "of the budget of 1 s were spent before" in one["reasons"][0]


@pytest.mark.integration
def test_a_budget_that_suffices_promotes_and_measures_with_what_is_left(
    slipway: Slipway, registry: MlflowRegistry, project: Path
) -> None:
    write_params(project, targets={"quick": target()["x86"]})

    ended = slipway("release", MODEL_URI, "--budget", "5m", "--json")

    assert ended.code == 0
    assert registry.champion(f"{NAME}.quick") == "1"
    for one in ended.object["targets"]["quick"]["candidates"]:
        assert one["latency"] or "not measured in full" in one["reasons"][0]


def test_another_limit_judges_anew_and_measures_nothing_anew(slipway: Slipway, project: Path) -> None:
    write_params(project, accuracy={"metric": "top1", "max_drop": 0.2})

    ended = slipway("release", MODEL_URI)

    assert ended.code == 0
    told = set(re.findall(r"^(\S.*?)  +(?:build|validate|benchmark) +done", ended.stderr, re.MULTILINE))
    assert told == set()
