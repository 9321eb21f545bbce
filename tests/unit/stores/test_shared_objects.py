"""Objects on their way between two stores through an MLflow run."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from slipway.errors import InfrastructureError, SlipwayError
from slipway.records import Artifact, Decision, Verdict
from slipway.stores.objects import MissingObjectError, ObjectStore
from slipway.stores.shared_objects import SharedObjects


@pytest.fixture
def shared(mlflow_root: Path, tmp_path: Path) -> SharedObjects:
    return SharedObjects.new(f"sqlite:///{mlflow_root}/mlflow.db", mlflow_root / "mlartifacts", tmp_path, "digits")


@pytest.fixture
def elsewhere(shared: SharedObjects) -> SharedObjects:
    """The same, as another host has it, which knows the run alone."""
    return SharedObjects(shared.tracking_uri, None, shared.run_id)


@pytest.fixture
def here(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "here")


@pytest.fixture
def there(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "there")


def files_of(mlflow_root: Path, shared: SharedObjects) -> list[Path]:
    return [path for path in (mlflow_root / "mlartifacts").rglob("*") if shared.run_id in path.parts and path.is_file()]


def test_files_and_directories_arrive_as_they_were(
    shared: SharedObjects, elsewhere: SharedObjects, here: ObjectStore, there: ObjectStore, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    (model / "weights").mkdir(parents=True)
    (model / "model.xml").write_text("<net/>")
    (model / "weights" / "model.bin").write_bytes(b"\0\1")
    single = tmp_path / "engine.onnx"
    single.write_bytes(b"onnx")
    artifacts = [here.put(model), here.put(single)]

    shared.share(here, artifacts)
    shared.share(here, artifacts)
    elsewhere.fetch(there, artifacts)

    assert all(there.has(artifact) for artifact in artifacts)
    assert (there.path(artifacts[0]) / "weights" / "model.bin").read_bytes() == b"\0\1"


def test_what_is_there_already_is_not_fetched_and_what_is_nowhere_is_told(
    shared: SharedObjects, elsewhere: SharedObjects, here: ObjectStore, there: ObjectStore, tmp_path: Path
) -> None:
    file = tmp_path / "engine.onnx"
    file.write_bytes(b"onnx")
    artifact = there.put(file)
    elsewhere.fetch(there, [artifact])

    with pytest.raises(MissingObjectError):
        shared.share(here, [artifact])
    with pytest.raises(SlipwayError, match=r"Failed to download artifacts from path 'engine\.onnx'"):
        elsewhere.fetch(here, [artifact])


def test_other_bytes_are_refused(
    shared: SharedObjects,
    elsewhere: SharedObjects,
    here: ObjectStore,
    there: ObjectStore,
    tmp_path: Path,
    mlflow_root: Path,
) -> None:
    file = tmp_path / "engine.onnx"
    file.write_bytes(b"onnx")
    artifact = here.put(file)
    shared.share(here, [artifact])
    (arrived,) = files_of(mlflow_root, shared)
    arrived.write_bytes(b"evil")

    with pytest.raises(
        InfrastructureError, match=rf"^shared object engine.onnx should hash to {artifact.digest[:12]}, "
    ):
        elsewhere.fetch(there, [artifact])
    assert not there.has(artifact)


def test_records_by_name(shared: SharedObjects, elsewhere: SharedObjects) -> None:
    assert elsewhere.read("far-1", Decision) is None

    told = Decision(verdict=Verdict.PASS, reasons=("é",))
    shared.write("far-1", told)

    assert elsewhere.read("far-1", Decision) == told
    with pytest.raises(InfrastructureError, match=r"^far-1 cannot be read by Slipway .*; install this version on both"):
        elsewhere.read("far-1", Artifact)


def test_signs_of_life_change_and_tell_the_worker_when_the_release_has_ended(
    shared: SharedObjects, elsewhere: SharedObjects, here: ObjectStore, tmp_path: Path, mlflow_root: Path
) -> None:
    file = tmp_path / "engine.onnx"
    file.write_bytes(b"onnx")
    shared.share(here, [here.put(file)])
    orphaned = threading.Event()
    assert shared.sign("far", 1) is None

    with elsewhere.signs_of_life("far", 1, 0.05, orphaned.set):
        signs: set[str | None] = set()
        while len(signs) < 3:
            signs.add(shared.sign("far", 1))
        assert not orphaned.is_set()
        shared.close()
        assert orphaned.wait(30)

    assert shared.sign("far", 2) is None
    assert files_of(mlflow_root, shared) == [], "the files went with the run"


def test_a_new_release_of_the_project_ends_what_a_killed_one_left_open(
    shared: SharedObjects, elsewhere: SharedObjects, mlflow_root: Path, tmp_path: Path
) -> None:
    store = (shared.tracking_uri, mlflow_root / "mlartifacts")
    SharedObjects.new(*store, tmp_path / "other", "digits")
    SharedObjects.new(*store, tmp_path, "other")
    assert elsewhere._leave_sign("far", 1)

    SharedObjects.new(*store, tmp_path, "digits")
    assert not elsewhere._leave_sign("far", 1)


def test_an_attempt_ends_when_a_later_one_counts_and_not_for_another_target(
    shared: SharedObjects, elsewhere: SharedObjects
) -> None:
    shared.expect("far", 1)
    shared.expect("near", 2)
    orphaned = threading.Event()

    with elsewhere.signs_of_life("far", 1, 0.05, orphaned.set):
        while shared.sign("far", 1) is None:
            assert not orphaned.is_set()
        shared.expect("far", 2)
        assert orphaned.wait(30)

    assert elsewhere._leave_sign("far", 2)


def test_a_project_and_a_name_may_hold_any_character(mlflow_root: Path, tmp_path: Path) -> None:
    store = (f"sqlite:///{mlflow_root}/mlflow.db", mlflow_root / "mlartifacts", tmp_path / 'o\'brien`s "x" %')
    killed = SharedObjects.new(*store, "o'digits")

    SharedObjects.new(*store, "digits")
    assert killed._leave_sign("far", 1)
    SharedObjects.new(*store, "o'digits")
    assert not killed._leave_sign("far", 1)


def test_an_object_is_uploaded_once_however_many_targets_want_it(
    shared: SharedObjects, here: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "engine.onnx"
    file.write_bytes(b"onnx")
    artifact = here.put(file)
    client, uploads, another = shared._connection.client, list[str](), threading.Event()
    log = client.log_artifact

    def slow(run_id: str, path: str, folder: str) -> None:
        uploads.append(path)
        if len(uploads) > 1:
            another.set()
        another.wait(0.2)
        log(run_id, path, folder)

    monkeypatch.setattr(client, "log_artifact", slow)
    with ThreadPoolExecutor(2) as targets:
        for done in [targets.submit(shared.share, here, [artifact]) for _ in range(2)]:
            done.result()

    assert len(uploads) == 1


def test_a_password_stays_on_its_host() -> None:
    assert SharedObjects("https://ada:secret@mlflow.example.org/x", None, "1").address == "https://mlflow.example.org/x"
    assert SharedObjects("sqlite:////data/mlflow.db", None, "1").address == "sqlite:////data/mlflow.db"
