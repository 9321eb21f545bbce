from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from slipway.cli import demo, release
from slipway.config import Params
from slipway.records import Decision, Recorded, ReleaseResult, Verdict
from slipway.reports.summary import release_json
from slipway.stores.registry import ModelVersionRef
from tests.fakes.evidence import evidence
from tests.fakes.evidence import release as release_of
from tests.fakes.registry import FakeRegistry
from tests.unit.cli.conftest import Slipway
from tests.unit.steps.records import failed

PARAMS = "model: models:/m/7\ndata: {test: t}\ntargets: {x86: {engines: [torch]}, arm: {engines: [torch]}}\n"


def ended_with(verdict: str) -> ReleaseResult:
    """A release with one chosen candidate, one that was skipped, and this verdict on its target."""
    skipped = failed("build", Verdict.SKIPPED, "pip install 'slipway[openvino]'").decision
    plain = release_of(evidence("1" * 64), evidence(None, timing=None, decision=skipped))
    (one,) = plain.targets
    decision = Decision(verdict=Verdict(verdict), reasons=("as [it] is",))
    target = one.model_copy(update={"decision": decision, "chosen": "1" * 64})
    return ReleaseResult(
        release=plain.model_copy(update={"targets": (target,)}),
        recorded=Recorded(run_id="r1", versions={"x86": "3"}),
        promotions={"x86": Decision(verdict=Verdict.PASS, reasons=("digits.x86 version 3 is the champion now",))},
    )


class Flow:
    """The flow ``release``, which only notes how it was called."""

    def __init__(self, verdict: str) -> None:
        self.result = ended_with(verdict)
        self.calls: list[Params] = []
        self.budget_seconds: float | None = None

    def __call__(self, params: Params, budget_seconds: float | None = None) -> ReleaseResult:
        self.calls.append(params)
        self.budget_seconds = budget_seconds
        return self.result


@pytest.fixture
def flow(
    request: pytest.FixtureRequest, registry: FakeRegistry, project: Path, monkeypatch: pytest.MonkeyPatch
) -> Flow:
    made = Flow(getattr(request, "param", "PASS"))
    for _ in range(5):
        registry.add_model("digits", project)
    registry.tracking_uri = "http://mlflow.example.org"  # type: ignore[attr-defined]
    monkeypatch.setattr(release, "load_flow", lambda _: made)
    (project / "params.yaml").write_text(PARAMS)
    return made


def test_the_model_and_the_targets_asked_for_are_released(slipway: Slipway, flow: Flow) -> None:
    """The command line names the model, whatever the parameters say."""
    assert slipway("release", "models:/digits/2", "--target", "arm").code == 0
    assert slipway("release", "models:/digits/3").code == 0

    assert [(params.model, list(params.targets)) for params in flow.calls] == [
        ("models:/digits/2", ["arm"]),
        ("models:/digits/3", ["x86", "arm"]),
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("models:/digits/9",), "has no version 9"),
        (("models:/digits@champion",), "has no alias 'champion'"),
        (("digits",), "model URI 'digits' is malformed"),
        (("models:/digits/1", "--target", "gpu"), "target 'gpu' is not in the parameters; known: x86, arm"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_released_is_told_before_the_flow_starts(
    arguments: tuple[str, ...], told: str, slipway: Slipway, flow: Flow
) -> None:
    ended = slipway("release", *arguments, "--json")

    assert (ended.code, flow.calls) == (2, [])
    assert told in ended.object["error"]


def test_json_is_one_object_on_stdout(slipway: Slipway, flow: Flow) -> None:
    ended = slipway("release", "models:/digits/1", "--json")

    expected: Any = release_json(flow.result.release, {"x86": "models:/digits.x86/3"}, ended.object["seconds"])
    expected["targets"]["x86"]["reasons"].append("digits.x86 version 3 is the champion now")
    assert ended.object == expected
    assert [one["registered"] for one in ended.object["targets"]["x86"]["candidates"]] == ["models:/digits.x86/3", None]


def test_a_refused_promotion_is_the_last_word_on_its_target(slipway: Slipway, flow: Flow) -> None:
    refused = Decision(verdict=Verdict.FAIL, reasons=("earlier decision: this file was rejected",))
    flow.result = flow.result.model_copy(update={"promotions": {"x86": refused}})

    ended = slipway("release", "models:/digits/1", "--json")

    assert ended.code == 3
    assert ended.object["targets"]["x86"]["verdict"] == "FAIL"
    assert ended.object["targets"]["x86"]["reasons"] == ["as [it] is", *refused.reasons]


@pytest.mark.parametrize(
    ("flow", "code"), [("PASS", 0), ("FAIL", 3), ("INCONCLUSIVE", 4), ("ERROR", 5)], indirect=["flow"]
)
def test_the_verdict_is_the_exit_code(slipway: Slipway, flow: Flow, code: int) -> None:
    assert slipway("release", "models:/digits/1").code == code
    assert slipway("release", "models:/digits/1", "--json").code == code


@pytest.mark.usefixtures("flow")
def test_people_read_a_table_the_reasons_and_where_to_look(slipway: Slipway) -> None:
    ended = slipway("release", "models:/digits/1")

    lines = ended.stdout.splitlines()
    assert "models:/digits/1 on x86" in lines[0]
    assert any("►" in line and "onnxruntime" in line for line in lines)
    assert any("reference" in line and "eager fp32" in line for line in lines)
    assert "  fp32/onnxruntime SKIPPED: pip install 'slipway[openvino]'" in lines
    assert lines[-2:] == ["PASS: as [it] is", "PASS: digits.x86 version 3 is the champion now"]
    assert ended.stderr.endswith(" s; run r1; look at it with: http://mlflow.example.org\n")


@pytest.mark.parametrize("own", [(), ("fp32/onnxruntime in place of the champion: slower",)])
def test_the_last_line_repeats_no_reason_of_the_list_above(own: tuple[str, ...], slipway: Slipway, flow: Flow) -> None:
    (target,) = flow.result.release.targets
    told = "fp32/onnxruntime SKIPPED: pip install 'slipway[openvino]'"
    without = Decision(verdict=Verdict.FAIL, reasons=(*own, told))
    outcome = target.model_copy(update={"decision": without, "chosen": None})
    lost = flow.result.release.model_copy(update={"targets": (outcome,)})
    flow.result = flow.result.model_copy(update={"release": lost, "promotions": {}})

    lines = slipway("release", "models:/digits/1").stdout.splitlines()

    assert lines[-2:] == [f"  {told}", f"FAIL: {'; '.join(own) or 'no candidate passed: 1 SKIPPED'}"]
    assert slipway("release", "models:/digits/1", "--json").object["targets"]["x86"]["reasons"] == [*own, told]


@pytest.mark.usefixtures("flow")
def test_fresh_sets_the_cache_aside(slipway: Slipway) -> None:
    slipway("release", "models:/digits/1")
    assert "PREFECT_TASKS_REFRESH_CACHE" not in os.environ

    slipway("release", "models:/digits/1", "--fresh")
    assert os.environ["PREFECT_TASKS_REFRESH_CACHE"] == "true"


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch, registry: FakeRegistry, project: Path) -> list[Path]:
    """The directories in which an example was prepared."""
    directories = []

    class Prepared:
        params = project / "params.yaml"

        def prepare(self, root: Path, found: FakeRegistry, tell: Any) -> ModelVersionRef:
            assert found is registry
            directories.append(root)
            tell("trained")
            return ModelVersionRef(name="digits", version="5", uri="models:/digits/5")

    monkeypatch.setattr(demo, "example", lambda _: Prepared())
    return directories


def test_the_demo_prepares_its_example_and_releases_it(
    slipway: Slipway, flow: Flow, prepared: list[Path], project: Path
) -> None:
    ended = slipway("demo", "--json")

    assert (ended.code, prepared) == (0, [project])
    assert ended.stderr == "trained\n"
    assert [params.model for params in flow.calls] == ["models:/digits/5"]
    assert ended.object["targets"]["x86"]["verdict"] == "PASS"


@pytest.mark.usefixtures("prepared")
def test_the_demo_can_stop_before_the_release(slipway: Slipway, flow: Flow) -> None:
    assert slipway("demo", "--prepare-only").code == 0
    assert flow.calls == []


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("5m", 300), ("1h30m", 5400), ("2h", 7200)])
def test_a_budget_is_a_duration(slipway: Slipway, flow: Flow, text: str, seconds: float) -> None:
    assert slipway("release", "models:/digits/5", "--budget", text).code == 0
    assert flow.budget_seconds == seconds


@pytest.mark.parametrize("text", ["", "5", "5x", "m", "0s", "-5m", "5m 3s"])
def test_anything_else_is_no_budget(slipway: Slipway, flow: Flow, text: str) -> None:
    ended = slipway("release", "models:/digits/5", "--budget", text)

    assert ended.code == 2
    assert "is no duration" in ended.stderr
    assert flow.calls == []
