"""What makes a cached result good: equal keys for equal content, other keys for anything that could change it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.states import Failed

import slipway
import tasks
from slipway.errors import BadInputError, InfrastructureError, RejectedError
from slipway.records import CandidateSpec, DataSource, Decision, Failure, Form, Predictions, Verdict
from slipway.steps.budget import Budget
from slipway.stores.objects import ObjectStore
from tasks import policy
from tasks.policy import ContentPolicy, surroundings
from tests.fakes.evidence import HARDWARE, SIGNATURE
from tests.fakes.registry import FakeRegistry
from tests.unit.steps.records import ACCURACY, BUILT, TARGET, VALIDATED, artifact, context

DATA = DataSource(path="data/test", md5="d" * 32 + ".dir", files=2, size_bytes=10)
INPUTS: dict[str, Any] = {
    "spec": CandidateSpec(target="x86", variant="bf16", engine="openvino"),
    "built": BUILT,
    "data": DATA,
    "reference": Predictions(artifact=artifact("9"), metric="top1", value=0.9, n=10),
    "policy": ACCURACY,
    "target": TARGET,
    "signature": SIGNATURE,
    "hardware": HARDWARE,
    "candidates": [(BUILT, VALIDATED)],
    "form": Form.ONNX,
    "calibration": None,
    "threads": 1,
    "trust_pickle": False,
}


def key(inputs: dict[str, Any], task: str = "validate") -> str:
    return ContentPolicy().compute_key(SimpleNamespace(task=SimpleNamespace(name=task)), inputs, {})


def changed(name: str, **changes: Any) -> dict[str, Any]:
    return INPUTS | {name: INPUTS[name].model_copy(update=changes)}


def test_equal_content_gives_equal_keys(tmp_path: Path) -> None:
    again = {
        name: type(value).model_validate_json(value.model_dump_json()) if hasattr(value, "model_dump") else value
        for name, value in reversed(INPUTS.items())
    }

    assert key(again) == key(INPUTS)


def test_places_and_budgets_are_not_content(tmp_path: Path) -> None:
    here = INPUTS | {"objects": ObjectStore(tmp_path / "here"), "registry": FakeRegistry(), "budget": None}
    there = INPUTS | {"objects": ObjectStore(tmp_path / "there"), "registry": FakeRegistry()}
    there |= {"budget": Budget(start=0.0, seconds=60.0)}

    assert key(here) == key(there) == key(INPUTS)


@pytest.mark.parametrize(
    "other",
    [
        changed("spec", variant="fp32"),
        changed("spec", engine="torch"),
        changed("spec", target="arm"),
        changed("data", md5="e" * 32 + ".dir"),
        changed("built", artifact=artifact("f")),
        changed("built", options={"level": "none"}),
        changed("built", engine_version="1.31.2"),
        changed("reference", artifact=artifact("8")),
        changed("policy", metric="macro_f1"),
        changed("policy", confidence=0.99),
        changed("target", threads=(1, 2)),
        changed("target", batch=(1, 8)),
        changed("signature", outputs=()),
        changed("hardware", fingerprint="0" * 64),
        INPUTS | {"form": Form.TORCHSCRIPT},
        INPUTS | {"calibration": DATA},
        INPUTS | {"threads": 2},
        INPUTS | {"trust_pickle": True},
        INPUTS | {"candidates": []},
        INPUTS | {"candidates": [(BUILT.model_copy(update={"artifact": artifact("f")}), VALIDATED)]},
        INPUTS | {"built": Failure(step="build", decision=Decision(verdict=Verdict.FAIL, reasons=("no",)))},
        {name: value for name, value in INPUTS.items() if name != "calibration"},
    ],
)
def test_any_other_content_gives_another_key(other: dict[str, Any]) -> None:
    assert key(other) != key(INPUTS)


def test_another_version_of_an_own_metric_gives_another_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "own_metric_of_a_test.py"
    file.write_text("def score(outputs, target): return 1.0")
    own = changed("policy", metric="own_metric_of_a_test:score")
    before = key(own)
    file.write_text("def score(outputs, target): return 0.5")

    assert key(own) != before


@pytest.mark.usefixtures("_fresh")
def test_another_host_has_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(INPUTS)
    surroundings.cache_clear()
    monkeypatch.setattr(policy, "host_hardware", lambda: HARDWARE)

    assert key(INPUTS) != before


def test_another_step_has_another_key() -> None:
    assert key(INPUTS, "build") != key(INPUTS, "validate")


@pytest.mark.parametrize("value", [Path("data"), object(), {1, 2}, b"bytes"], ids=lambda value: type(value).__name__)
def test_what_has_no_content_to_name_it_by_is_refused(value: object) -> None:
    """A bare path says where bytes lie: a cache keyed on it would be stale without anybody noticing."""
    with pytest.raises(TypeError, match=f"^a task was given {type(value).__name__}, which has no content"):
        key(INPUTS | {"data": value})


@pytest.fixture
def _fresh() -> Iterator[None]:
    surroundings.cache_clear()
    yield
    surroundings.cache_clear()


@pytest.mark.usefixtures("_fresh")
def test_another_version_of_a_runtime_gives_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(INPUTS)
    surroundings.cache_clear()
    monkeypatch.setattr(policy, "_version", lambda name: "0.1" if name == "openvino" else "1")

    assert key(INPUTS) != before


@pytest.mark.usefixtures("_fresh")
def test_another_compiler_gives_another_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its version counts, by what the command of $CXX prints; none at all is a surrounding of its own."""
    compiler, keys = tmp_path / "compiler", set()
    for version in ("14.2", "15.1"):
        compiler.write_text(f"#!/bin/sh\necho g++ {version} $*\necho more\n")
        compiler.chmod(0o755)
        monkeypatch.setenv("CXX", f"{compiler} -O2")
        surroundings.cache_clear()
        keys.add(key(INPUTS))
        assert policy._compiler() == f"g++ {version} -O2 --version"
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    surroundings.cache_clear()
    keys.add(key(INPUTS))

    assert policy._compiler() is None
    assert len(keys) == 3


@pytest.mark.usefixtures("_fresh")
@pytest.mark.parametrize("source", policy.SOURCES)
def test_changed_source_gives_another_key(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slipway, "__file__", str(tmp_path / "__init__.py"))
    for name in policy.SOURCES:
        file = tmp_path / name if name.endswith(".py") else tmp_path / name / "step.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text("a = 1")
    before = key(INPUTS)
    surroundings.cache_clear()
    changed = tmp_path / source
    (changed if source.endswith(".py") else changed / "step.py").write_text("a = 2")

    assert key(INPUTS) != before


def test_every_source_that_counts_is_there() -> None:
    package = Path(slipway.__file__).parent

    assert all((package / source).is_file() or list((package / source).glob("*.py")) for source in policy.SOURCES)


def test_a_runtime_that_is_not_installed_counts_as_such() -> None:
    assert policy._version("no-such-distribution") is None


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (InfrastructureError("down"), True),
        (BadInputError("wrong"), False),
        (RejectedError("no"), False),
        (ValueError("foreign"), False),
    ],
)
def test_only_infrastructure_is_tried_again(error: Exception, again: bool) -> None:
    condition = policy.RETRIED["retry_condition_fn"]

    assert condition(None, None, Failed(data=error)) is again


TASKS: dict[str, Task[Any, Any]] = {
    f"{module.name}.{name}": found
    for module in pkgutil.iter_modules(tasks.__path__)
    for name, found in vars(importlib.import_module(f"tasks.{module.name}")).items()
    if isinstance(found, Task)
}
UNCACHED = {
    *("audit.open_champion", "audit.follow_up", "audit.record_audit"),
    *("data.check_data", "promote.promote", "promote.decide", "register.register", "benchmark.find_champion"),
}


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_either_cached_by_content_or_not_at_all(name: str) -> None:
    """Never by Prefect's default, which includes the run's own id and so never hits."""
    task = TASKS[name]

    if name in UNCACHED:
        assert task.cache_policy is NO_CACHE
    else:
        assert isinstance(task.cache_policy, ContentPolicy)
        assert (task.persist_result, task.result_serializer) == (True, "json")


@pytest.mark.parametrize("name", [name for name in TASKS if name != "data.check_data"])
def test_every_task_that_reaches_a_store_or_a_process_is_tried_again(name: str) -> None:
    assert TASKS[name].retries == 1
    assert TASKS[name].retry_condition_fn is policy.RETRIED["retry_condition_fn"]


def test_the_context_of_a_release_can_be_keyed() -> None:
    assert key({"source": context().model}) != key({"source": context().data})
