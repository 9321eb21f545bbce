"""States of a rollout as a store would keep them."""

from __future__ import annotations

from typing import Any

from slipway.config import CanaryParams
from slipway.records import Contender, Decision, Phase, Reading, Rollout, Verdict
from slipway.records.rollout import StepStart

NAME = "digits.x86"


def rollout(**changes: Any) -> Rollout:
    """A rollout in its first step, or what ``changes`` make of it."""
    fields: dict[str, Any] = {
        "rollout_id": "r1",
        "name": NAME,
        "champion": Contender(version="1", digest="1" * 64),
        "challenger": Contender(version="2", digest="2" * 64),
        "policy_json": CanaryParams().model_dump_json(),
        "phase": Phase.PROGRESSING,
        "step": 0,
        "steps_begun": (StepStart(),),
        "share_percent": 1.0,
        "reasons": ("37 of 200 answers at this step",),
        "started_s": 1_000.0,
        "phase_since_s": 1_060.0,
    }
    return Rollout(**(fields | changes))


def reading(gate: str, verdict: Verdict = Verdict.INCONCLUSIVE, **figures: float | None) -> Reading:
    """What a gate concluded, with these figures."""
    return Reading(gate=gate, decision=Decision(verdict=verdict, reasons=(f"why {gate}",)), figures=figures)


def looked(requests: int, **changes: Any) -> Rollout:
    """A look after so many requests of the challenger, every gate read; bounds narrow as requests come."""
    width = 10 / requests
    latency = {
        "champion_lower_ms": 10 - width if requests > 50 else None,
        "champion_upper_ms": 10 + width if requests > 50 else None,
        "challenger_lower_ms": 10.5 - width if requests > 50 else None,
        "challenger_upper_ms": 10.5 + width if requests > 50 else None,
        "champion_ms": 10.0,
        "challenger_ms": 10.5,
        "margin": 0.1,
    }
    shares = {"champion_lower": 0.0, "champion_upper": width / 10, "challenger_lower": 0.0}
    errors = shares | {"challenger_upper": width / 5, "challenger_n": float(requests), "margin": 0.005}
    accuracy = {"loss_lower": -width / 10, "loss_upper": width / 10, "margin": 0.01}
    found = (reading("latency_p95", **latency), reading("errors", **errors), reading("accuracy", **accuracy))
    return rollout(readings=found, **changes)
