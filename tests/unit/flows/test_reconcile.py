"""What reconcile asks for, with a registry in memory and a Prefect that answers as told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger

from flows import reconcile
from slipway.errors import InfrastructureError, TamperedError
from slipway.records import ReleaseRequest
from tests.fakes.registry import FakeRegistry

PARAMS = "model: models:/{0}\ndata: {{test: t}}\ntargets: {{x86: {{engines: [torch]}}}}\n"


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, ReleaseRequest]:
    """What was asked for, by its key, in a project of the models ``tiny`` and ``other``."""
    registry, asked = FakeRegistry(), {}
    for _ in range(2):
        registry.add_model("tiny", tmp_path)
        registry.add_model("other", tmp_path)
    registry.models["other"].aliases["staging"] = "1"
    (tmp_path / "params").mkdir()
    (tmp_path / "params.yaml").write_text(PARAMS.format("tiny/1"))
    (tmp_path / "params" / "other.yaml").write_text(PARAMS.format("other@staging"))
    monkeypatch.chdir(tmp_path)

    def ask(request: ReleaseRequest, key: str) -> None:
        asked[key] = request

    monkeypatch.setattr(reconcile, "workshop", lambda: type("Shop", (), {"registry": registry}))
    monkeypatch.setattr(reconcile, "current_data_md5", lambda params, model: "aa11.dir")
    monkeypatch.setattr(reconcile, "release_runs", lambda uri, bearer: [])
    monkeypatch.setattr(reconcile, "requests", lambda name: [])
    monkeypatch.setattr(reconcile, "crash_silent_runs", list)
    monkeypatch.setattr(reconcile, "ask_for_release", ask)
    monkeypatch.setattr(reconcile, "create_markdown_artifact", lambda text, **_: asked.update({"artifact": text}))
    return asked


def reconciled() -> Any:
    with disable_run_logger():
        return reconcile.reconcile.fn()


def test_every_model_of_the_project_is_looked_at(asked: dict[str, Any]) -> None:
    state = reconciled()

    assert state.is_completed()
    assert state.message == "asked for tiny version 2, other version 1"
    told = asked.pop("artifact")
    assert asked == {
        "reconcile:tiny:2:aa11.dir:1": ReleaseRequest(
            model="models:/tiny/2", params="params.yaml", reason="reconcile: it was never released"
        ),
        "reconcile:other:1:aa11.dir:1": ReleaseRequest(
            model="models:/other/1", params="params/other.yaml", reason="reconcile: it was never released"
        ),
    }
    assert "## other (params/other.yaml)" in told
    assert "- **version 1 asked for**, attempt 1: it was never released" in told


@pytest.mark.parametrize(
    ("md5", "why"),
    [
        (TamperedError("t differs from what is tracked"), "t differs from what is tracked"),
        (None, "run `dvc pull t` here"),
    ],
)
def test_data_that_cannot_be_verified_stop_their_model_and_no_other(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch, md5: Any, why: str
) -> None:
    def current(_: Any, model: str) -> str | None:
        if model == "other":
            return "bb22.dir"
        if md5 is None:
            return None
        raise md5

    monkeypatch.setattr(reconcile, "current_data_md5", current)
    state = reconciled()

    assert state.is_failed()
    assert state.message.startswith("tiny: ")
    assert why in state.message
    assert state.message.endswith("\nasked for other version 1")
    assert why in asked.pop("artifact")
    assert list(asked) == ["reconcile:other:1:bb22.dir:1"]


def test_a_request_that_is_not_taken_is_told(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> None:
        raise InfrastructureError("Prefect does not answer")

    monkeypatch.setattr(reconcile, "ask_for_release", away)
    state = reconciled()

    assert state.is_failed()
    assert state.message == "tiny: Prefect does not answer\nother: Prefect does not answer\nnothing is due"
