"""What a target comes to once its candidates are validated."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from flows import targets
from flows.lanes import Lane, Lanes
from flows.targets import conclude_target
from slipway.records import Predictions, Verdict
from tests.unit.steps.records import BUILT, PARAMS, SPEC, artifact, context, failed


def test_a_target_without_a_valid_candidate_leaves_the_host_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference alone would be timed for nobody, and where that failed the target would be an ERROR."""

    def timed(*_: object) -> None:
        raise AssertionError("the reference was timed")

    monkeypatch.setattr(targets, "benchmark", timed)
    monkeypatch.setattr(targets, "find_champion", lambda *_: None)
    skipped = failed("build", Verdict.SKIPPED, "not for this host")
    reference = Predictions(artifact=artifact("9"), metric="top1", value=0.98, n=1000)
    predictions: Any = SimpleNamespace(result=lambda: reference)
    shop: Any = SimpleNamespace(registry=None, objects=None)

    outcome, engines = conclude_target(
        PARAMS, shop, context(), Lanes("x86", BUILT, predictions, (Lane(SPEC, (), skipped),)), None
    )

    assert (outcome.decision.verdict, engines) == (Verdict.SKIPPED, [])
    assert [one.decision.reasons for one in outcome.candidates] == [("build: not for this host",)]
    assert outcome.reference_value == 0.98
