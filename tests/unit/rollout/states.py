"""Rollouts to be saved, heard of and observed."""

from __future__ import annotations

from typing import Any

from slipway.config import CanaryParams
from slipway.records import Contender, Decision, Phase, Reading, Rollout, Verdict

NAME = "digits.x86"
STARTED_S = 1_700_000_000.0
CHAMPION, CHALLENGER = "c" * 64, "d" * 64
READING = Reading(
    gate="latency_p95",
    decision=Decision(verdict=Verdict.INCONCLUSIVE, reasons=("too few",)),
    figures={"challenger_n": 12.0, "upper": None},
)


def policy_json(**changed: Any) -> str:
    return CanaryParams(**changed).model_dump_json()


def rollout(**changed: Any) -> Rollout:
    """A rollout that has just begun, but for what is ``changed``."""
    values: dict[str, Any] = {
        "rollout_id": "r1",
        "name": NAME,
        "champion": Contender(version="1", digest=CHAMPION),
        "challenger": Contender(version="2", digest=CHALLENGER),
        "policy_json": policy_json(),
        "started_s": STARTED_S,
        "phase_since_s": STARTED_S,
    }
    return Rollout(**(values | changed))


def progressing(share_percent: float = 5.0, **changed: Any) -> Rollout:
    return rollout(phase=Phase.PROGRESSING, step=1, share_percent=share_percent, **changed)
