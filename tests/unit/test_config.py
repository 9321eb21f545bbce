from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from slipway.config import VARIANTS, Params, load_params
from slipway.errors import BadInputError
from slipway.examples import EXAMPLES, example
from slipway.variants import VARIANTS as KINDS

LEAST = "model: models:/m/1\ndata: {test: data/test}\n"
TARGETS = "targets: {x86: {engines: [torch]}}\n"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "params.yaml"


def refusal(file: Path, text: str) -> str:
    """The one line in which ``text`` is refused."""
    file.write_text(text, encoding="utf-8")
    with pytest.raises(BadInputError) as caught:
        load_params(file)
    message = str(caught.value)
    assert "\n" not in message
    assert str(file) in message
    return message


def test_little_is_enough(file: Path) -> None:
    file.write_text(LEAST + TARGETS)
    params = load_params(file)

    assert (params.model, params.data.test, params.data.calibration) == ("models:/m/1", Path("data/test"), None)
    assert (params.variants, params.accuracy.max_drop, params.trust_pickle) == (("fp32",), 0.01, False)
    target = params.targets["x86"]
    assert (target.threads, target.batch, target.objective, target.work_pool) == ((1,), (1,), "latency_p50_ms", None)


@pytest.mark.parametrize("path", [ROOT / "params.yaml", *(example(name).params for name in EXAMPLES)], ids=str)
def test_the_parameters_in_the_repository_are_right(path: Path) -> None:
    assert load_params(ROOT / path).targets


def test_the_variants_are_those_that_can_be_made() -> None:
    assert set(VARIANTS) == set(KINDS)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            LEAST + TARGETS + "varaints: [fp32]",
            "unknown key 'varaints', did you mean 'variants'?; known here: model, data",
        ),
        (LEAST + TARGETS + "nonsense: 1", "unknown key 'nonsense'; known here: model, data"),
        (
            LEAST + "targets: {x86: {engnes: [torch], engines: [torch]}}",
            "unknown key 'targets.x86.engnes', did you mean 'engines'?; known here: engines, threads",
        ),
        (
            LEAST + TARGETS + "accuracy: {max_dorp: 0.1}",
            "unknown key 'accuracy.max_dorp', did you mean 'max_drop'?; known here: metric, max_drop, min_ratio",
        ),
        (
            LEAST + "targets: {x86: {engines: [torch], slo: {latency_p99: 5}}}",
            "unknown key 'targets.x86.slo.latency_p99', did you mean 'latency_p99_ms'?; known here: latency_p99_ms",
        ),
        (
            LEAST + "targets: {slo: {engines: [torch], thread: [1]}}",
            "unknown key 'targets.slo.thread', did you mean 'threads'?",
        ),
        (
            LEAST + "targets: {batch: {engines: [torch], thread: [1]}}",
            "unknown key 'targets.batch.thread', did you mean 'threads'?",
        ),
        (
            "model: m\ndata: {test: t, calibation: c}\n" + TARGETS,
            "unknown key 'data.calibation', did you mean 'calibration'?; known here: test, calibration, training",
        ),
        (LEAST + TARGETS + "canary: {step: [1]}", "unknown key 'canary.step', did you mean 'steps'?"),
        (
            LEAST + TARGETS + "approval: {persons: 2}",
            "approval: persons and expires_hours say nothing without required",
        ),
        (LEAST + TARGETS + "approval: {required: true, persons: 0}", "approval.persons: "),
        (LEAST + TARGETS + "approval: {required: true, expires_hours: 0}", "approval.expires_hours: "),
        (LEAST + TARGETS + "approval: {require: true}", "unknown key 'approval.require', did you mean 'required'?"),
    ],
)
def test_a_wrong_key_names_the_nearest_right_one(text: str, told: str, file: Path) -> None:
    assert told in refusal(file, text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("data: {test: t}\n" + TARGETS, "key 'model' is missing"),
        (LEAST, "key 'targets' is missing"),
        (LEAST + "targets: {x86: {}}", "key 'targets.x86.engines' is missing"),
        ("model: m\ndata: {}\n" + TARGETS, "key 'data.test' is missing"),
    ],
)
def test_a_missing_key_is_named(text: str, told: str, file: Path) -> None:
    assert told in refusal(file, text)


@pytest.mark.parametrize(
    ("text", "where", "found"),
    [
        (LEAST + TARGETS + "accuracy: {max_drop: -0.1}", "accuracy.max_drop: ", "(found -0.1)"),
        (LEAST + TARGETS + "accuracy: {max_drop: .nan}", "accuracy.max_drop: ", "(found nan)"),
        (LEAST + TARGETS + "accuracy: {max_drop: a lot}", "accuracy.max_drop: ", "(found 'a lot')"),
        (LEAST + TARGETS + "accuracy: {confidence: 1}", "accuracy.confidence: ", "(found 1)"),
        (LEAST + TARGETS + "accuracy: {confidence: 0.5}", "accuracy.confidence: ", "(found 0.5)"),
        (LEAST + TARGETS + "accuracy: 3", "accuracy: ", "(found 3)"),
        (LEAST + TARGETS + "variants: []", "variants: ", "(found [])"),
        (LEAST + TARGETS + "canary: {steps: [0]}", "canary.steps.0: ", "(found 0)"),
        (LEAST + TARGETS + "canary: {steps: []}", "canary.steps: ", "(found [])"),
        (LEAST + TARGETS + "canary: {alpha: 0.5}", "canary.alpha: ", "(found 0.5)"),
        (LEAST + TARGETS + "canary: {latency_margin: 1.5}", "canary.latency_margin: ", "(found 1.5)"),
        (LEAST + TARGETS + "canary: {max_requests: 0}", "canary.max_requests: ", "(found 0)"),
        (LEAST + TARGETS + "trust_pickle: perhaps", "trust_pickle: ", "(found 'perhaps')"),
        (LEAST + "targets: {}", "targets: ", "(found {})"),
        (LEAST + "targets: {x86: {engines: []}}", "targets.x86.engines: ", "(found [])"),
        (LEAST + "targets: {x86: {engines: torch}}", "targets.x86.engines: ", "(found 'torch')"),
        (LEAST + "targets: {x86: {engines: [torch], threads: [0]}}", "targets.x86.threads.0: ", "(found 0)"),
        (LEAST + "targets: {x86: {engines: [torch], batch: [1.5]}}", "targets.x86.batch.0: ", "(found 1.5)"),
        (LEAST + "targets: {x86: {engines: [torch], objective: speed}}", "targets.x86.objective: ", "(found 'speed')"),
        (LEAST + "targets: {x86: {engines: [torch], slo: {size_mb: 0}}}", "targets.x86.slo.size_mb: ", "(found 0)"),
        (
            LEAST + "targets: {x86: {engines: [torch], max_regression: -1}}",
            "targets.x86.max_regression: ",
            "(found -1)",
        ),
    ],
)
def test_a_wrong_value_is_told_with_its_place(text: str, where: str, found: str, file: Path) -> None:
    message = refusal(file, text)

    assert f" {where}" in message
    assert found in message


def test_an_unknown_variant_names_the_nearest(file: Path) -> None:
    message = refusal(file, LEAST + TARGETS + "variants: [fp32, int8-statik]")

    assert "unknown variant 'int8-statik', did you mean 'int8-static'?; known: fp32, bf16" in message


@pytest.mark.parametrize("name", ["x/86", "'x 86'", "'../x86'", "'x.86'", "''", "'-'"])
def test_a_target_whose_name_could_not_be_a_models_is_refused(name: str, file: Path) -> None:
    """It becomes part of a registered model's name and of file names."""
    message = refusal(file, LEAST + f"targets: {{{name}: {{engines: [torch]}}}}")

    assert "may hold only letters, digits, '-' and '_'" in message


def test_every_mistake_is_told_at_once(file: Path) -> None:
    message = refusal(file, LEAST + "targets: {x86: {engines: [torch], thread: [1]}}\nvaraints: []")

    assert "'targets.x86.thread'" in message
    assert "'varaints'" in message


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"model: [", "is not valid YAML"),
        (b"- model\n- data\n", "holds list, not a mapping"),
        (b"", "holds NoneType, not a mapping"),
        (b"just words", "holds str, not a mapping"),
        (b"\xff\xfe\x00", "cannot read parameters"),
    ],
)
def test_what_is_no_mapping_is_refused(content: bytes, told: str, file: Path) -> None:
    file.write_bytes(content)
    with pytest.raises(BadInputError) as caught:
        load_params(file)

    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_code_in_the_yaml_is_not_run(file: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    refusal(file, f"model: !!python/object/apply:pathlib.Path.touch [{trap}]")

    assert not trap.exists()


@pytest.mark.parametrize("place", ["nowhere.yaml", "."])
def test_a_file_that_cannot_be_read_is_told_with_the_option(place: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"^cannot read parameters .*; give --params FILE$"):
        load_params(tmp_path / place)


def test_parameters_are_frozen(file: Path) -> None:
    file.write_text(LEAST + TARGETS)
    params: Params = load_params(file)

    with pytest.raises(ValidationError):
        params.model = "models:/other/1"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        params.accuracy.max_drop = 1.0  # type: ignore[misc]


def test_a_work_pool_without_a_name_is_refused(file: Path) -> None:
    told = refusal(file, LEAST + "targets: {x86: {engines: [torch], work_pool: ''}}")
    assert "targets.x86.work_pool: String should have at least 1 character" in told


def test_settings_of_an_engine_that_the_target_lacks_are_told_by_name_alone(file: Path) -> None:
    told = refusal(file, LEAST + "targets: {x86: {engines: [torch, tvm], settings: {tvn: {cpu: a}}}}")
    assert told.endswith("targets.x86: settings for 'tvn', did you mean 'tvm'?; engines: torch, tvm")
