"""What only the registry on MLflow can get wrong: runs left open, changed files, MLflow's own errors and noise."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INTERNAL_ERROR,
    INVALID_PARAMETER_VALUE,
    RESOURCE_DOES_NOT_EXIST,
)

from slipway.errors import BadInputError, InfrastructureError, TamperedError
from slipway.records import Decision, Evidence, Layer, Parity, Profile, Scenario, Verdict
from slipway.stores.mlflow_border import at_border
from slipway.stores.mlflow_connection import Connection, embedded
from slipway.stores.mlflow_registry import MlflowRegistry
from slipway.stores.mlflow_releases import KIND_TAG, MODEL_TAG, OWNER_TAG, _metrics, _owner
from slipway.stores.objects import digest_of
from slipway.stores.registry import EVIDENCE_TAG, RecordedRelease, evidence_sha256, sha256_of
from tests.contract.stores.conftest import PYFUNC_CODE
from tests.fakes.evidence import DATA_MD5, TIMING, evidence, release


@pytest.fixture
def client(registry: MlflowRegistry) -> MlflowClient:
    return MlflowClient(registry.tracking_uri, registry.tracking_uri)


def _record(registry: MlflowRegistry, directory: Path, model: str) -> tuple[RecordedRelease, Evidence]:
    """A release of one candidate with a file and one without, and a report."""
    engine, report, trace = directory / "engine.onnx", directory / "report.md", directory / "trace.json"
    engine.write_text(model)
    report.write_text("# Report")
    trace.write_text("{}")
    found = evidence(digest_of(engine))
    failed = evidence(None, decision=Decision(verdict=Verdict.ERROR, reasons=("build: crashed",)), timing=None)
    recorded = registry.record_release(
        release(found, failed, model=model),
        {str(found.digest): engine},
        [report],
        attachments={evidence_sha256(found): [trace]},
    )
    return recorded, found


def _runs(client: MlflowClient, model: str) -> dict[str, list[str]]:
    """The statuses of a model's runs by kind."""
    experiment = client.get_experiment_by_name("slipway")
    assert experiment is not None
    found: dict[str, list[str]] = {}
    for run in client.search_runs([experiment.experiment_id], f"tags.`{MODEL_TAG}` = '{model}'"):
        found.setdefault(run.data.tags[KIND_TAG], []).append(run.info.status)
    return {kind: sorted(statuses) for kind, statuses in found.items()}


def test_a_release_is_a_parent_run_with_a_child_per_candidate(
    registry: MlflowRegistry, client: MlflowClient, tmp_path: Path
) -> None:
    recorded, found = _record(registry, tmp_path, "layout")

    assert _runs(client, "layout") == {"release": ["FINISHED"], "candidate": ["FINISHED", "FINISHED"]}
    assert {file.path for file in client.list_artifacts(recorded.run_id)} == {"release.json", "report.md"}
    assert client.get_run(recorded.run_id).data.params == {
        "model_uri": "models:/layout/1",
        "data_md5": DATA_MD5,
        "metric": "top1",
    }
    model = client.get_logged_model(recorded.model_ids[evidence_sha256(found)])
    child = client.get_run(str(model.source_run_id))
    assert child.data.tags["mlflow.parentRunId"] == recorded.run_id
    assert child.data.params == {
        "variant": "fp32",
        "engine": "onnxruntime",
        "target": "x86",
        "threads": "1",
        "model_uri": "models:/digits/1",
    }
    assert [file.path for file in client.list_artifacts(child.info.run_id)] == ["evidence.json", "trace.json"]
    assert child.inputs is not None
    assert child.inputs.dataset_inputs[0].dataset.digest == DATA_MD5


def test_figures_hang_on_the_logged_model_and_the_data(
    registry: MlflowRegistry, client: MlflowClient, tmp_path: Path
) -> None:
    recorded, found = _record(registry, tmp_path, "figures")
    model = client.get_logged_model(recorded.model_ids[evidence_sha256(found)])

    assert model.metrics is not None
    assert {metric.key: metric.value for metric in model.metrics} == {
        "accuracy": 0.98,
        "drop": 0.001,
        "drop_upper": 0.004,
        "latency_p50_ms": 1.0,
        "latency_p90_ms": 1.5,
        "speedup": 2.0,
        "throughput_per_s": 900.0,
        "throughput_per_s_batch_1": 900.0,
        "load_seconds": 0.1,
        "peak_rss_bytes": 1.0,
        "size_bytes": 5.0,
    }
    assert {metric.dataset_digest for metric in model.metrics} == {DATA_MD5}
    assert (model.status.value, model.model_type) == ("READY", "engine")


def test_everything_that_was_measured_is_a_metric() -> None:
    layer = {"name": "conv", "kind": "Conv", "multiplies": True, "time_us": 1.0}
    layers = (Layer(**layer, precision="int8"), Layer(**layer, precision="fp32"))
    server = Scenario(
        name="server",
        percentile=99,
        latency_ms=7.0,
        examples_per_s=50.0,
        queries=9,
        valid=True,
        target_per_s=50.0,
        tool="LoadGen",
    )
    changed = {"throughput_per_s": {"1": 900.0, "8": 2000.0}, "scenario": server, "first_inference_seconds": 0.5}
    latency = TIMING.latency.model_copy(update={"p95_ms": 2.0, "p99_ms": 3.0})
    plain = evidence("1" * 64)
    found = plain.model_copy(
        update={
            "spec": plain.spec.model_copy(update={"variant": "int8-static"}),
            "parity": Parity(max_abs_diff=0.1, max_rel_diff=0.1, cosine=0.999, top1_agreement=0.98, n=10),
            "profile": Profile(tool="profiler", layers=layers, calls=1, batch=1, threads=1),
            "timing": TIMING.model_copy(update=changed | {"latency": latency}),
        }
    )

    figures = {metric.key: metric.value for metric in _metrics("run", None, found)}

    wanted = {
        "latency_p95_ms": 2.0,
        "latency_p99_ms": 3.0,
        "throughput_per_s": 2000.0,
        "throughput_per_s_batch_1": 900.0,
        "throughput_per_s_batch_8": 2000.0,
        "parity_cosine": 0.999,
        "top1_agreement": 0.98,
        "executed_share": 0.5,
        "first_inference_seconds": 0.5,
        "loadgen_latency_ms": 7.0,
        "loadgen_examples_per_s": 50.0,
    }
    assert wanted.items() <= figures.items()


def test_mlflow_can_load_a_registered_engine_by_itself(registry: MlflowRegistry, tmp_path: Path) -> None:
    import mlflow.pyfunc
    import numpy as np

    recorded, found = _record(registry, tmp_path, "loaded")
    registry.register("loaded.x86", recorded, found)
    directory = registry.download(registry.resolve("models:/loaded.x86/1"), tmp_path / "copy")

    x = np.zeros((2, 4), np.float32)
    np.testing.assert_array_equal(mlflow.pyfunc.load_model(str(directory)).predict({"x": x})["x"], x)


def test_a_changed_engine_file_is_never_handed_out(registry: MlflowRegistry, mlflow_root: Path, tmp_path: Path) -> None:
    recorded, found = _record(registry, tmp_path, "changed-engine")
    registry.register("changed-engine.x86", recorded, found)
    model_id = recorded.model_ids[evidence_sha256(found)]
    (stored,) = (mlflow_root / "mlartifacts" / "models" / model_id).rglob("engine.onnx")
    stored.write_text("changed-enginE")

    with pytest.raises(TamperedError, match="do not serve it"):
        registry.engine_path("changed-engine.x86", "1", tmp_path / "out")


def test_changed_evidence_is_caught(registry: MlflowRegistry, mlflow_root: Path, tmp_path: Path) -> None:
    recorded, found = _record(registry, tmp_path, "changed-evidence")
    registry.register("changed-evidence.x86", recorded, found)
    model_id = recorded.model_ids[evidence_sha256(found)]
    (stored,) = (mlflow_root / "mlartifacts" / "models" / model_id).rglob("evidence.json")
    stored.write_text(stored.read_text().replace('"p50_ms":1.0', '"p50_ms":0.1'))

    with pytest.raises(TamperedError, match=r"evidence of models:/changed-evidence\.x86/1 was changed"):
        registry.version("changed-evidence.x86", "1")


def test_evidence_of_an_earlier_slipway_that_lacks_a_field_is_read(
    registry: MlflowRegistry, client: MlflowClient, mlflow_root: Path, tmp_path: Path
) -> None:
    recorded, found = _record(registry, tmp_path, "earlier")
    registry.register("earlier.x86", recorded, found)
    (stored,) = (mlflow_root / "mlartifacts" / "models" / recorded.model_ids[evidence_sha256(found)]).rglob(
        "evidence.json"
    )
    earlier = stored.read_text(encoding="utf-8").replace('"notes":[],', "")
    stored.write_text(earlier, encoding="utf-8")
    client.set_model_version_tag("earlier.x86", "1", EVIDENCE_TAG, sha256_of(earlier))

    assert "notes" not in earlier
    assert registry.version("earlier.x86", "1").evidence == found


def test_an_error_leaves_no_run_open(
    registry: MlflowRegistry, client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_model_artifacts", full)
        with pytest.raises(InfrastructureError, match="No space left on device"):
            _record(registry, tmp_path, "broken")

    assert _runs(client, "broken") == {"release": ["FAILED"], "candidate": ["FAILED"]}
    assert registry.candidates("broken", None) == []
    _record(registry, tmp_path, "broken")
    assert len(registry.candidates("broken", None)) == 2


@pytest.mark.parametrize(
    ("owner", "age_seconds", "status"),
    [
        (f"{os.uname().nodename} 4194305 1.00", 0, "KILLED"),  # above any process id
        (f"{os.uname().nodename} {os.getpid()} 1.00", 0, "KILLED"),  # the id was given to another process since
        (_owner(), 0, "KILLED"),  # this process, whose own try could not be ended
        ("elsewhere 1 1.00", 0, "RUNNING"),
        ("elsewhere 1 1.00", 7200, "KILLED"),
    ],
    ids=["dead", "replaced", "itself", "elsewhere", "elsewhere-long-ago"],
)
def test_runs_of_killed_processes_are_ended(
    registry: MlflowRegistry, client: MlflowClient, tmp_path: Path, owner: str, age_seconds: int, status: str
) -> None:
    model = f"killed-{abs(hash((owner, age_seconds)))}"
    started = int((time.time() - age_seconds) * 1000)
    experiment = Connection(registry.tracking_uri, None).experiment("slipway")
    tags = {KIND_TAG: "release", MODEL_TAG: model, OWNER_TAG: owner}
    parent = client.create_run(experiment, start_time=started, tags=tags).info.run_id
    child = client.create_run(experiment, tags={"mlflow.parentRunId": parent}).info.run_id

    _record(registry, tmp_path, model)

    assert [client.get_run(run).info.status for run in (parent, child)] == [status, status]


def test_a_rollback_after_a_promotion_cut_short_keeps_the_champion(
    registry: MlflowRegistry, client: MlflowClient, tmp_path: Path
) -> None:
    """Killed between the two alias changes, a promotion leaves `previous` and `champion` on the same version."""
    recorded, found = _record(registry, tmp_path, "cut")
    version = registry.register("cut.x86", recorded, found)
    registry.promote("cut.x86", version, None, None)
    client.set_registered_model_alias("cut.x86", "previous", version)

    assert registry.rollback("cut.x86").version == version
    assert registry.aliases("cut.x86") == {"champion": version}
    assert registry.version("cut.x86", version).tags["slipway.decision"] == "promoted"


def test_the_environment_is_left_as_it_was(registry: MlflowRegistry, tmp_path: Path) -> None:
    """MLflow exports the URI it is given, which would make the embedded store look like one that was chosen."""
    recorded, found = _record(registry, tmp_path, "environment")
    before = dict(os.environ), mlflow.get_tracking_uri()
    registry.register("environment.x86", recorded, found)

    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert (dict(os.environ), mlflow.get_tracking_uri()) == before


def test_nothing_is_printed(registry: MlflowRegistry, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recorded, found = _record(registry, tmp_path, "quiet")
    registry.register("quiet.x86", recorded, found)
    registry.engine_path("quiet.x86", "1", tmp_path / "out")

    assert capfd.readouterr() == ("", "")


def test_the_embedded_store_lies_under_the_root_unless_another_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert embedded(tmp_path) == (f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "mlartifacts")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert embedded(tmp_path) == ("http://mlflow:5000", None)


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "postgresql://user:secret@127.0.0.1:9/mlflow"])
def test_a_store_that_is_down_is_told_at_once(uri: str) -> None:
    started = time.monotonic()
    with pytest.raises(
        InfrastructureError, match=r"cannot reach MLflow at .*127\.0\.0\.1:9.*MLFLOW_TRACKING_URI"
    ) as raised:
        MlflowRegistry(uri, None, PYFUNC_CODE).check()

    assert time.monotonic() - started < 5
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("uri", ["notauri", "./mlruns", "http://", "http://host:port", "http://[::1"])
def test_what_is_no_uri_is_told_as_such(uri: str) -> None:
    with pytest.raises(BadInputError, match=re.escape(f"{uri!r} is no URI of a store for registered models; set ")):
        MlflowRegistry(uri, None, PYFUNC_CODE).aliases("digits")


def test_a_file_that_is_no_database_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("something else, long enough to be read")
    with pytest.raises(InfrastructureError, match="file is not a database"):
        MlflowRegistry(f"sqlite:///{tmp_path}/mlflow.db", None, PYFUNC_CODE).aliases("digits")


def test_a_database_whose_making_was_cut_short_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    registry = MlflowRegistry(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "mlartifacts", PYFUNC_CODE)

    assert registry.champion("digits.x86") is None
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".mlflow-")] == []


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (RESOURCE_DOES_NOT_EXIST, BadInputError),
        (INVALID_PARAMETER_VALUE, BadInputError),
        (INTERNAL_ERROR, InfrastructureError),
    ],
)
def test_mlflow_errors_become_one_line_of_ours(code: int, kind: type[Exception]) -> None:
    class Asking:
        tracking_uri = "http://mlflow:5000"

        @at_border
        def ask(self) -> None:
            raise MlflowException("went\nwrong", code)

    with pytest.raises(kind, match=r"^MLflow at http://mlflow:5000: went wrong; ") as raised:
        Asking().ask()
    assert type(raised.value) is kind
