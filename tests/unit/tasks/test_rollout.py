"""The flow around a canary, without Prefect's engine."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect import State
from prefect.logging import disable_run_logger

import flows.rollout
from slipway.canary import NothingToCompareError
from slipway.config import Params
from slipway.errors import BadInputError
from slipway.records import Phase, Rollout
from tests.unit.rollout.rollouts import rollout

PARAMS = Params.model_validate(
    {"model": "models:/digits/1", "data": {"test": "data/test"}, "targets": {"x86": {"engines": ["torch"]}}}
)


def test_the_flow_runs_the_same_controller_and_gives_back_how_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.chdir(tmp_path)

    def run_canary(shop: Any, params: Params, registered: str, version: str | None, report: Any, warn: Any) -> Rollout:
        asked.append((shop.root, params, registered, version))
        report(rollout())
        warn("the store did not answer")
        return rollout(phase=Phase.PROMOTED)

    monkeypatch.setattr(flows.rollout, "run_canary", run_canary)

    with disable_run_logger():
        ended = flows.rollout.rollout.fn("digits", "x86", "2", PARAMS)

    assert isinstance(ended, Rollout)
    assert ended.phase is Phase.PROMOTED
    assert asked == [(tmp_path, PARAMS, "digits.x86", "2")]


def test_a_challenger_that_has_nobody_to_be_compared_with_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_canary(*_: Any) -> Rollout:
        raise NothingToCompareError("digits.x86 has no champion to compare with")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(flows.rollout, "run_canary", run_canary)

    with disable_run_logger():
        ended = flows.rollout.rollout.fn("digits", "x86", "1", PARAMS)

    assert isinstance(ended, State)
    assert (ended.is_completed(), ended.name) == (True, "SKIPPED")
    assert ended.message == "digits.x86 has no champion to compare with"


def test_a_worker_takes_the_parameters_that_describe_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "model: models:/{0}/1\ndata: {{test: t}}\ntargets: {{x86: {{engines: [torch]}}}}\n"
    (tmp_path / "params").mkdir()
    (tmp_path / "params.yaml").write_text(text.format("digits"))
    (tmp_path / "params" / "tiny.yaml").write_text(text.format("tiny"))
    monkeypatch.chdir(tmp_path)
    given: list[str] = []
    monkeypatch.setattr(flows.rollout, "run_canary", lambda shop, params, *_: given.append(params.model))

    with disable_run_logger():
        flows.rollout.rollout.fn("tiny", "x86")
        flows.rollout.rollout.fn("digits", "x86", params=Path("params.yaml"))
        with pytest.raises(BadInputError, match="describes 'other'; known: digits, tiny"):
            flows.rollout.rollout.fn("other", "x86")
        with pytest.raises(BadInputError, match="describes releases of digits, and tiny was asked for"):
            flows.rollout.rollout.fn("tiny", "x86", params=Path("params.yaml"))

    assert given == ["models:/tiny/1", "models:/digits/1"]


def test_whoever_starts_a_deployment_does_not_write_its_gates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows.rollout, "runtime", SimpleNamespace(deployment=SimpleNamespace(id="d1")))
    monkeypatch.setattr(flows.rollout, "run_canary", lambda *_: pytest.fail("it was started"))

    with disable_run_logger(), pytest.raises(BadInputError, match="name a file of the worker's project"):
        flows.rollout.rollout.fn("digits", "x86", "2", PARAMS)
