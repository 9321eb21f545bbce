"""What a timing task keeps for the next release, and what it does not."""

from __future__ import annotations

from typing import Any

import pytest

from slipway.config import LatencyParams
from slipway.records import Failure, Timed, Verdict
from slipway.steps.benchmark import Timings
from slipway.steps.budget import TimeLimit
from tasks import benchmark as module
from tasks.benchmark import UnsettledError, benchmark
from tests.fakes.evidence import HARDWARE
from tests.unit.steps.records import BUILT, TARGET, TIMED, context, failed, timing

DIGEST = BUILT.artifact.digest
LIMIT = TimeLimit(seconds=5, halving=True, promising=())
UNSETTLED = TIMED.model_copy(update={"timing": timing(settled=False)})
BY_A_LOST_CHAMPION = TIMED.model_copy(update={"no_champion": "it died"})


def run(timed: Timed | Failure, limit: TimeLimit | None, monkeypatch: pytest.MonkeyPatch) -> Timings:
    monkeypatch.setattr(module, "benchmark_step", lambda *_: Timings(by_digest={DIGEST: timed}))
    objects: Any = None
    kept = benchmark.fn(objects, "x86", TARGET, LatencyParams(), HARDWARE, context().data, BUILT, [], None, limit)
    assert isinstance(kept, Timings)
    return kept


@pytest.mark.parametrize("timed", [TIMED, failed("benchmark", Verdict.FAIL)])
def test_what_is_settled_is_kept(timed: Timed | Failure, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(timed, None, monkeypatch).by_digest == {DIGEST: timed}


@pytest.mark.parametrize(
    ("timed", "limit"),
    [
        (UNSETTLED, None),
        (BY_A_LOST_CHAMPION, None),
        (failed("benchmark", Verdict.ERROR), None),
        (failed("benchmark", Verdict.INCONCLUSIVE), LIMIT),
        (TIMED, LIMIT),
    ],
)
def test_what_another_session_may_better_is_told_but_not_kept(
    timed: Timed | Failure, limit: TimeLimit | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnsettledError) as raised:
        run(timed, limit, monkeypatch)

    assert raised.value.timings.by_digest == {DIGEST: timed}
