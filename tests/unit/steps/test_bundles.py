from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from slipway.errors import BadInputError, TamperedError
from slipway.records import Built, CandidateSpec, Decision, Exported, Failure, Form, Verdict
from slipway.steps.benchmark import Timings
from slipway.steps.bundles import load, load_outcome, save
from slipway.stores.objects import ObjectStore

SPEC = CandidateSpec(target="x86", variant="fp32", engine="openvino")
FAILURE = Failure(step="build", decision=Decision(verdict=Verdict.SKIPPED, reasons=("no such kernel",)))


@pytest.fixture
def here(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "here")


@pytest.fixture
def elsewhere(tmp_path: Path) -> ObjectStore:
    """The empty store of another checkout, to which only the directory travelled."""
    return ObjectStore(tmp_path / "elsewhere")


@pytest.fixture
def built(here: ObjectStore, tmp_path: Path) -> Built:
    """An engine that is a directory, as OpenVINO's are."""
    engine = tmp_path / "engine"
    engine.mkdir()
    (engine / "model.xml").write_text("graph")
    (engine / "model.bin").write_text("weights")
    return Built(spec=SPEC, artifact=here.put(engine), options={}, engine_version="1")


@pytest.fixture
def bundle(built: Built, here: ObjectStore, tmp_path: Path) -> Path:
    directory = tmp_path / "stages" / "build"
    save(directory, built, here)
    return directory


def _engine_in(bundle: Path) -> Path:
    (engine,) = bundle.glob("*/engine")
    return engine


def test_a_result_travels_with_the_bytes_it_names(bundle: Path, built: Built, elsewhere: ObjectStore) -> None:
    assert load(bundle, Built, elsewhere) == built
    assert (elsewhere.path(built.artifact) / "model.bin").read_text() == "weights"


def test_the_same_result_gives_the_same_bytes(bundle: Path, built: Built, elsewhere: ObjectStore) -> None:
    def content() -> dict[str, bytes]:
        return {str(file): file.read_bytes() for file in bundle.rglob("*") if file.is_file()}

    before = content()
    save(bundle, load(bundle, Built, elsewhere), elsewhere)

    assert content() == before


def test_a_new_result_replaces_the_whole_directory(bundle: Path, here: ObjectStore) -> None:
    save(bundle, FAILURE, here)

    assert [file.name for file in bundle.iterdir()] == ["record.json"]
    assert load_outcome(bundle, Built, here) == FAILURE


def test_a_result_is_told_from_a_failure(bundle: Path, built: Built, here: ObjectStore) -> None:
    assert load_outcome(bundle, Built, here) == built


@pytest.mark.parametrize(
    "harm",
    [
        lambda engine: (engine / "model.bin").write_text("other"),
        lambda engine: (engine / "extra").write_text(""),
        shutil.rmtree,
    ],
    ids=["changed", "extra", "missing"],
)
def test_bytes_other_than_recorded_are_refused(
    harm: Callable[[Path], object], bundle: Path, elsewhere: ObjectStore
) -> None:
    harm(_engine_in(bundle))

    with pytest.raises(TamperedError, match=r"engine is missing or differs .* `dvc checkout`"):
        load(bundle, Built, elsewhere)


def test_a_step_that_did_not_run_is_told(tmp_path: Path, here: ObjectStore) -> None:
    with pytest.raises(BadInputError, match=r"fetch holds no step result; .*`dvc repro`"):
        load(tmp_path / "fetch", Built, here)


def test_the_result_of_another_step_is_refused(bundle: Path, here: ObjectStore) -> None:
    with pytest.raises(BadInputError, match="not a step result of this version"):
        load(bundle, Exported, here)


def test_records_without_files_need_no_store(tmp_path: Path, here: ObjectStore) -> None:
    timings = Timings(by_digest={"a" * 64: FAILURE})
    save(tmp_path / "benchmark", timings, here)

    assert load(tmp_path / "benchmark", Timings, here) == timings
    assert not here.root.exists()


def test_artifacts_are_found_wherever_a_record_holds_them(built: Built, here: ObjectStore, tmp_path: Path) -> None:
    exported = Exported(form=Form.ONNX, artifact=built.artifact, parity=None, exporter="test")
    save(tmp_path / "export", exported, here)

    assert (_engine_in(tmp_path / "export") / "model.xml").is_file()
