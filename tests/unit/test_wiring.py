from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import yaml

import slipway
from slipway import wiring
from slipway.config import Params, load_params
from slipway.engines import availabilities
from slipway.engines.base import Availability
from slipway.errors import BadInputError, InfrastructureError, UnsupportedError
from slipway.records import CandidateSpec, Form
from slipway.wiring import (
    check_targets,
    check_targets_here,
    code_revision,
    current_data_md5,
    embed_prefect,
    host_hardware,
    load_flow,
    project_file,
    project_params,
    serving_host,
    wanted_forms,
    workshop,
)

PARAMS = Params.model_validate(
    {
        "model": "models:/m/1",
        "data": {"test": "data/test"},
        "targets": {"x86": {"engines": ["torch", "onnxruntime"]}, "small": {"engines": ["openvino"]}},
    }
)


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    with mock.patch.dict(os.environ):
        yield


def with_target(**changes: object) -> Params:
    return PARAMS.model_copy(update={"targets": {"x86": PARAMS.targets["x86"].model_copy(update=changes)}})


def test_all_targets_unless_some_are_named() -> None:
    assert check_targets(PARAMS) == PARAMS
    assert list(check_targets(PARAMS, ("small",)).targets) == ["small"]


def test_an_unknown_target_is_refused_and_the_known_ones_told() -> None:
    with pytest.raises(BadInputError, match=r"^target 'arm' is not in the parameters; known: x86, small$"):
        check_targets(PARAMS, ("x86", "arm"))


def test_an_unknown_engine_is_refused_before_any_work() -> None:
    with pytest.raises(BadInputError, match="unknown engine 'onnxrutime', did you mean 'onnxruntime'"):
        check_targets(with_target(engines=("torch", "onnxrutime")))


def test_an_engine_that_is_not_installed_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from slipway.engines.openvino import OpenVinoEngine

    missing = Availability(engine="openvino", available=False, version=None, reason="no openvino", extra="openvino")
    monkeypatch.setattr(OpenVinoEngine, "availability", lambda _: missing)

    with pytest.raises(UnsupportedError, match=r"not available here: no openvino; pip install 'slipway\[openvino\]'$"):
        check_targets(PARAMS)


def test_only_the_targets_asked_for_are_checked() -> None:
    mixed = PARAMS.model_copy(
        update={"targets": {**PARAMS.targets, "far": with_target(work_pool="gpu").targets["x86"]}}
    )

    assert list(check_targets(mixed, ("x86",)).targets) == ["x86"]


def test_of_a_target_elsewhere_only_names_and_settings_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    from slipway.engines.openvino import OpenVinoEngine

    missing = Availability(engine="openvino", available=False, version=None, reason="no openvino", extra="openvino")
    monkeypatch.setattr(OpenVinoEngine, "availability", lambda _: missing)
    elsewhere = with_target(engines=("openvino", "torch"), threads=(4096,), work_pool="board")
    assert check_targets(elsewhere) == elsewhere

    with pytest.raises(BadInputError, match="unknown engine 'openvin', did you mean 'openvino'"):
        check_targets(with_target(engines=("openvin",), work_pool="board"))
    with pytest.raises(BadInputError, match="engine torch has no setting 'speed'"):
        check_targets(with_target(settings={"torch": {"speed": 9}}, work_pool="board"))


def test_a_single_step_refuses_a_work_pool_rather_than_ignore_it() -> None:
    assert check_targets_here(PARAMS) == PARAMS
    with pytest.raises(BadInputError, match=r"^target 'x86' asks for work pool 'gpu', .* set work_pool: null$"):
        check_targets_here(with_target(work_pool="gpu"))


def test_what_an_engine_builds_from_is_known_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    from slipway.engines.openvino import OpenVinoEngine

    missing = Availability(engine="openvino", available=False, version=None, reason="no openvino", extra="openvino")
    monkeypatch.setattr(OpenVinoEngine, "availability", lambda _: missing)
    specs = [
        CandidateSpec(target="x86", variant=variant, engine=engine)
        for variant in ("fp32", "int8-static")
        for engine in ("openvino", "onnxruntime", "torchscript")
    ]

    assert wanted_forms(specs) == [
        ("fp32", Form.ONNX),
        ("fp32", Form.TORCHSCRIPT),
        ("int8-static", Form.ONNX),
    ], "torchscript refuses int8-static"


def test_a_worker_takes_part_in_the_store_of_the_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "mlflow.db"
    store.touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example.org")

    assert workshop(tmp_path, f"sqlite:///{store}").registry.tracking_uri == f"sqlite:///{store}"
    assert workshop(tmp_path, "http://10.0.0.1").registry.tracking_uri == "http://mlflow.example.org"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert workshop(tmp_path, "http://10.0.0.1").registry.tracking_uri == "http://10.0.0.1"
    with pytest.raises(
        BadInputError, match=r"^the release keeps its files in sqlite:////nowhere/mlflow.db, which is not"
    ):
        workshop(tmp_path, "sqlite:////nowhere/mlflow.db")


def test_int8_static_wants_calibration_data() -> None:
    static = PARAMS.model_copy(update={"variants": ("fp32", "int8-static")})
    with pytest.raises(BadInputError, match=r"^variant int8-static needs calibration data: set data\.calibration"):
        check_targets(static)

    calibrated = PARAMS.data.model_copy(update={"calibration": Path("data/calibration")})
    assert check_targets(static.model_copy(update={"data": calibrated})).variants == ("fp32", "int8-static")


def test_an_unknown_metric_is_refused_before_any_work() -> None:
    accuracy = PARAMS.accuracy.model_copy(update={"metric": "top-1"})
    with pytest.raises(BadInputError, match="'top-1'"):
        check_targets(PARAMS.model_copy(update={"accuracy": accuracy}))


def test_more_threads_than_cpus_are_refused_before_any_work() -> None:
    with pytest.raises(BadInputError, match=r"^target 'x86' asks for 4096 threads, this host gives \d+ CPUs"):
        check_targets(with_target(threads=(1, 4096)))


def test_prefect_is_kept_in_the_project(tmp_path: Path) -> None:
    embed_prefect(tmp_path)

    assert os.environ["PREFECT_HOME"] == f"{tmp_path}/.slipway/prefect"
    assert os.environ["PREFECT_LOGGING_LEVEL"] == "CRITICAL"


@pytest.mark.parametrize("name", ["PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_HOME"])
def test_prefect_stays_where_the_environment_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "chosen")
    embed_prefect(tmp_path)

    assert os.environ[name] == "chosen"
    assert os.environ.get("PREFECT_HOME") == ("chosen" if name == "PREFECT_HOME" else None)
    assert "PREFECT_LOGGING_LEVEL" not in os.environ, "which the server's pages would lack"
    assert os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] == "CRITICAL"


def test_prefect_gets_its_time_to_start_unless_another_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"
    monkeypatch.delenv(setting)
    embed_prefect(tmp_path)
    assert os.environ[setting] == "120"

    monkeypatch.setenv(setting, "7")
    embed_prefect(tmp_path)
    assert os.environ[setting] == "7"


def test_a_flow_that_is_not_installed_is_told() -> None:
    with pytest.raises(InfrastructureError, match=r"^flow 'lift-off' is not installed; .*pip install slipway$"):
        load_flow("lift-off")


def test_a_server_of_prefect_that_is_down_is_told_and_any_other_error_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class PrefectHTTPStatusError(Exception):
        """Named as Prefect's, which the library does not know."""

    def flow(message: str) -> None:
        raise PrefectHTTPStatusError(message) if message.startswith("Client error") else RuntimeError(message)

    entry = mock.Mock(load=lambda: flow)
    monkeypatch.setattr(wiring.importlib.metadata, "entry_points", lambda **_: [entry])

    with pytest.raises(InfrastructureError, match=r"^Prefect did not answer: Failed to reach API at \S+; check that "):
        load_flow("release")("Failed to reach API at http://127.0.0.1:1/api")
    with pytest.raises(BadInputError, match=r"^Prefect asks who you are, .*; set PREFECT_API_AUTH_STRING to the "):
        load_flow("release")("Client error '401 Unauthorized' for url 'http://127.0.0.1:1/api/admin/version'")
    with pytest.raises(PrefectHTTPStatusError, match="404"):
        load_flow("release")("Client error '404 Not Found' for url 'http://127.0.0.1:1/api/admin/version'")
    with pytest.raises(RuntimeError, match=r"^another$"):
        load_flow("release")("another")


def git(root: Path, *arguments: str) -> str:
    person = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    command = ["git", "-C", str(root), *person, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "params.yaml").write_text("a: 1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return tmp_path


def test_the_revision_is_gits_and_marks_changes(repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    assert code_revision(repository) == commit

    (repository / "untracked").write_text("of no interest")
    assert code_revision(repository) == commit

    (repository / "params.yaml").write_text("a: 2")
    assert code_revision(repository) == f"{commit}-dirty"


def test_a_tag_does_not_take_the_revisions_place(repository: Path) -> None:
    git(repository, "tag", "--annotate", "v1", "--message", "one")

    assert code_revision(repository) == git(repository, "rev-parse", "HEAD")


def test_outside_git_the_revision_is_slipways_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert code_revision(tmp_path) == f"slipway {slipway.__version__}"

    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_revision(tmp_path) == f"slipway {slipway.__version__}", "git itself is not there"


def test_the_hardware_is_bound_to_the_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    here = host_hardware()
    assert here.runtimes.keys() == {a.engine for a in availabilities() if a.available}

    other = Availability(engine="torch", available=True, version="0.1", reason=None, extra=None)
    monkeypatch.setattr(wiring, "availabilities", lambda: (other,))
    assert host_hardware().runtimes == {"torch": "0.1"}
    assert host_hardware().fingerprint != here.fingerprint


def test_unset_everything_lies_in_the_project(tmp_path: Path) -> None:
    shop = workshop(tmp_path)

    assert shop.state == tmp_path / ".slipway"
    assert shop.objects.root == tmp_path / ".slipway" / "objects"
    assert shop.registry.tracking_uri == f"sqlite:///{tmp_path}/.slipway/mlflow.db"
    assert shop.look == "mlflow ui --backend-store-uri sqlite:///.slipway/mlflow.db"


def test_the_environment_chooses_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example.org")
    monkeypatch.chdir(tmp_path)
    shop = workshop()

    assert (shop.root, shop.look) == (tmp_path, "http://mlflow.example.org")


def test_a_project_where_nothing_can_be_kept_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / ".slipway").write_text("a file in the way")

    with pytest.raises(BadInputError, match=r"^cannot make .*\.slipway: File exists; work in a directory"):
        workshop(tmp_path)


def test_the_shared_parameters_pass_their_own_check() -> None:
    assert check_targets(load_params(Path(__file__).parents[2] / "params.yaml")).targets


def test_the_host_that_serves_is_known_of_targets_without_a_work_pool() -> None:
    assert serving_host(PARAMS, "m", "x86") == host_hardware()
    for params, model, target in (
        (PARAMS, "another", "x86"),
        (PARAMS, "m", "arm"),
        (with_target(work_pool="gpus"), "m", "x86"),
    ):
        assert serving_host(params, model, target) is None


def test_of_data_that_do_not_lie_here_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert current_data_md5(PARAMS, "m") is None
    (tmp_path / "data" / "test").mkdir(parents=True)
    assert current_data_md5(PARAMS, "another") is None
    with pytest.raises(BadInputError):  # it lies here, and nothing tracks it
        current_data_md5(PARAMS, "m")


def test_rollouts_lie_in_the_project_unless_the_environment_names_a_place(tmp_path: Path) -> None:
    assert workshop(tmp_path).rollouts.shown.endswith(".slipway/rollouts.db")
    os.environ["SLIPWAY_ROLLOUTS_URL"] = f"sqlite:///{tmp_path}/elsewhere.db"
    assert workshop(tmp_path).rollouts.shown.endswith("elsewhere.db")


def test_the_files_of_a_project_describe_one_model_each(tmp_path: Path) -> None:
    (tmp_path / "params").mkdir()
    for file, model in (("params.yaml", "models:/one/1"), ("params/two.yaml", "models:/two@candidate")):
        text = yaml.safe_dump({"model": model, "data": {"test": "data"}, "targets": {"x86": {"engines": ["torch"]}}})
        (tmp_path / file).write_text(text, encoding="utf-8")
    assert project_params(tmp_path) == {"one": tmp_path / "params.yaml", "two": tmp_path / "params" / "two.yaml"}

    (tmp_path / "params" / "again.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(BadInputError, match=r"again.yaml and .*two.yaml both describe releases of two; keep one"):
        project_params(tmp_path)
    with pytest.raises(BadInputError, match=r"holds no params.yaml and no params/\*.yaml"):
        project_params(tmp_path / "params")


@pytest.mark.parametrize("file", ["../elsewhere.yaml", "/etc/passwd", "params/../../elsewhere.yaml"])
def test_a_file_of_another_place_is_none_of_the_project(tmp_path: Path, file: str) -> None:
    with pytest.raises(BadInputError, match=r"is no file of the project in .*; name one of its params\.yaml"):
        project_file(tmp_path, Path(file))


def test_a_file_of_the_project_is_found_from_anywhere(tmp_path: Path) -> None:
    assert project_file(tmp_path, Path("params/one.yaml")) == tmp_path / "params" / "one.yaml"
    assert project_file(tmp_path, tmp_path / "params.yaml") == tmp_path / "params.yaml"
