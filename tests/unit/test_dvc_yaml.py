"""dvc.yaml speaks of parameters, commands, directories and plot templates: each of them exists."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import typer
import yaml
from typer.core import TyperGroup

from slipway.cli.commands import app
from slipway.config import load_params
from slipway.records import Form

ROOT = Path(__file__).parents[2]
PARAMS: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
PIPELINE: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
INTERPOLATION = re.compile(r"\$\{([^}]+)\}")
NOT_STAGES = {"convert", "publish"}
BUILT_IN_TEMPLATES = {"confusion"}


def looked_up(path: str) -> Any:
    """The parameter at a dotted path; KeyError if there is none."""
    value: Any = PARAMS
    for key in path.split("."):
        value = value[key]
    return value


def fill(value: Any, item: dict[str, Any]) -> Any:
    """``value`` with every ``${...}`` replaced, as DVC does it."""
    if isinstance(value, dict):
        return {fill(key, item): fill(inner, item) for key, inner in value.items()}
    if isinstance(value, list):
        return [fill(inner, item) for inner in value]
    if not isinstance(value, str):
        return value
    if whole := INTERPOLATION.fullmatch(value):
        return _meaning(whole[1], item)
    return INTERPOLATION.sub(lambda match: str(_meaning(match[1], item)), value)


def _meaning(name: str, item: dict[str, Any]) -> Any:
    return item[name.removeprefix("item.")] if name.startswith("item.") else looked_up(name)


def instances() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every stage that DVC makes of the file, by name."""
    for name, stage in PIPELINE["stages"].items():
        matrix = fill(stage.get("matrix", {}), {})
        body = {key: value for key, value in stage.items() if key != "matrix"}
        for values in itertools.product(*matrix.values()):
            suffix = "@" + "-".join(values) if values else ""
            yield name + suffix, fill(body, dict(zip(matrix, values, strict=True)))


STAGES = dict(instances())


def outs(stage: dict[str, Any]) -> list[str]:
    return [next(iter(out)) if isinstance(out, dict) else out for out in stage["outs"]]


@pytest.fixture(scope="module")
def step() -> TyperGroup:
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    group = root.commands["step"]
    assert isinstance(group, TyperGroup)
    return group


def test_the_parameters_are_those_of_a_release() -> None:
    assert set(load_params(ROOT / "params.yaml").targets) == set(PARAMS["targets"])


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_every_command_exists_with_its_options(stage: dict[str, Any], step: TyperGroup) -> None:
    program, group, name, *arguments = stage["cmd"].split()

    assert (program, group) == ("slipway", "step")
    # Parses, and fails on a wrong, missing or ill-valued option; runs nothing.
    step.commands[name].make_context(name, arguments)


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_every_parameter_depended_on_exists(stage: dict[str, Any]) -> None:
    for path in stage.get("params", []):
        looked_up(path)


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_every_dependency_is_what_a_stage_leaves(stage: dict[str, Any]) -> None:
    """And never the data, which a fresh clone does not hold, and whose changes DVC may miss."""
    made = [PurePosixPath(out) for one in STAGES.values() for out in outs(one)]
    for dep in map(PurePosixPath, stage.get("deps", [])):
        assert any(dep.is_relative_to(out) or out.is_relative_to(dep) for out in made), dep


def test_host_and_data_are_looked_at_every_time() -> None:
    assert {name for name, stage in STAGES.items() if stage.get("always_changed")} == {"hardware", "verify"}


def test_every_step_is_a_stage(step: TyperGroup) -> None:
    assert set(step.commands) - NOT_STAGES == set(PIPELINE["stages"])


def test_every_form_is_exported_and_quantized() -> None:
    for name in ("export", "quantize"):
        assert PIPELINE["stages"][name]["matrix"]["form"] == list(Form)


def test_every_target_is_released() -> None:
    matrices = [
        stage["matrix"]["target"] for stage in PIPELINE["stages"].values() if "target" in stage.get("matrix", {})
    ]

    assert len(matrices) == 4
    assert all(set(matrix) == set(PARAMS["targets"]) for matrix in matrices)


def readers(parameter: str) -> set[str]:
    """The stages that depend on a parameter, by itself or with the section that holds it."""
    return {
        name
        for name, stage in STAGES.items()
        if any(f"{parameter}.".startswith(f"{path}.") for path in stage.get("params", []))
    }


@pytest.mark.parametrize(
    "limit", ["accuracy.max_drop", "accuracy.min_ratio", "precision.min_executed_share", "targets.x86.slo.size_mb"]
)
def test_what_a_gate_allows_is_read_when_choosing_and_never_before(limit: str) -> None:
    assert readers(limit) == {"choose"}


@pytest.mark.parametrize("setting", ["latency.samples", "targets.x86.streams"])
def test_how_to_time_is_read_where_engines_are_timed(setting: str) -> None:
    assert "benchmark@x86" in readers(setting)
    assert not readers(setting) - {"benchmark@x86", "choose"}


@pytest.mark.parametrize("name", ["benchmark", "validate", "build", "reference", "quantize"])
def test_what_depends_on_the_host_says_so(name: str) -> None:
    assert "stages/hardware/fingerprint" in PIPELINE["stages"][name]["deps"]


def test_latencies_are_kept_from_the_run_cache() -> None:
    (out,) = STAGES["benchmark@x86"]["outs"]

    assert out == {"stages/benchmark/x86": {"persist": True}}


def test_plots_and_metrics_show_what_the_report_leaves() -> None:
    sources = [source for plot in PIPELINE["plots"] for shown in plot.values() for source in (*shown["x"], *shown["y"])]

    assert all(source.startswith("stages/report/x86/") for source in sources)
    assert all(metric.startswith("stages/report/") for metric in PIPELINE["metrics"])


def test_every_plot_template_exists() -> None:
    own = {file.stem for file in (ROOT / ".dvc" / "plots").glob("*.json")}
    used = {shown["template"] for plot in PIPELINE["plots"] for shown in plot.values()}

    assert used <= own | BUILT_IN_TEMPLATES
    assert own <= used
