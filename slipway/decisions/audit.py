"""Whether the engine that serves is still what it was promoted for, and whether a new release is asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime

from slipway.config import Params
from slipway.decisions.gates import combine
from slipway.records import Decision, Evidence, Interval, RequestedRelease, Verdict

STALE, SPEED = "stale", "speed"
# The other verdicts of a release say nothing about the target: it broke down, or nobody could take it.
LEARNT = frozenset({Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE})
_REFERENCE = "torch"  # the runtime of every reference, over which the recorded speed-up is told


def judge_audit(params: Params, recorded: Evidence, fresh: Evidence | None, stale: Sequence[str]) -> Decision:
    """The verdict on a champion: FAIL names what it does not keep any more, and by how much."""
    return combine(audit_gates(params, recorded, fresh, stale))


def audit_gates(
    params: Params, recorded: Evidence, fresh: Evidence | None, stale: Sequence[str]
) -> dict[str, Decision]:
    """The gates of an audit by name: not stale, every gate of a release on the ``fresh`` evidence, and as fast as then.

    What a release would call SKIPPED, a variant of whose precision nothing was executed, is a FAIL of an engine that
    was chosen for it. A stale engine need not be measured.
    """
    gates = {STALE: _not_stale(stale)}
    if fresh is None:
        if not stale:
            gates["measured"] = _decision(Verdict.ERROR, "nothing was measured; audit it again")
        return gates
    for name, gate in fresh.gates.items():
        lost = gate.verdict is Verdict.SKIPPED
        gates[name] = _decision(Verdict.FAIL, *gate.reasons) if lost else gate
    gates[SPEED] = _as_fast(params.targets[recorded.spec.target].max_regression, recorded, fresh)
    return gates


def finding_of(name: str, version: str, data_md5: str, gates: Mapping[str, Decision], stale: Sequence[str]) -> str:
    """What tells one complaint from another, as a sha256: the champion, the data, which gates failed, why it is stale.

    The figures are not part of it: they differ from night to night.
    """
    failed = sorted(gate for gate, decision in gates.items() if decision.verdict is Verdict.FAIL)
    text = "\n".join([name, version, data_md5, *failed, *stale])
    return hashlib.sha256(text.encode()).hexdigest()


def ask_for_release(earlier: RequestedRelease | None, running: str | None, now: datetime) -> Decision:
    """PASS where a release is to be asked for because of a finding; else SKIPPED; either with the reason.

    It is asked for once, and once more on every later day (UTC) until a release has ended: a request may be lost, and
    so may the run that it started. Nothing is asked for beside a release that is ``running``, by the name of its run.
    What a release has ended without mending is left to a person.
    """
    if running is not None and (earlier is None or earlier.ended is None):
        return _decision(Verdict.SKIPPED, f"a release is on its way, run {running}, so none is asked for tonight")
    if earlier is None:
        return _decision(Verdict.PASS, "a new release was asked for")
    asked = f"a release was asked for on {earlier.first_asked:%Y-%m-%d}"
    if earlier.ended is not None:
        return _decision(
            Verdict.SKIPPED,
            f"{asked}, and one ended {earlier.ended} (MLflow run {earlier.run_id}) without another champion, so none "
            "is asked for again; see its report, and whether a challenger waits for approval",
        )
    if earlier.last_asked.date() >= now.date():
        return _decision(Verdict.SKIPPED, f"{asked}, and none has ended yet")
    return _decision(Verdict.PASS, f"{asked}, and none has ended since, so it was asked for again")


def _not_stale(reasons: Sequence[str]) -> Decision:
    if reasons:
        return _decision(Verdict.FAIL, *reasons)
    return _decision(Verdict.PASS, "built and measured on a host as this one is today")


def _as_fast(max_regression: float, recorded: Evidence, fresh: Evidence) -> Decision:
    """FAIL when even the fastest speed that is likely now is below the slowest likely then, by more than allowed.

    Both are paired ratios over the reference, so that a slower host does not count. A ratio of two of them lies between
    the quotients of opposite ends of their intervals, at no less than their confidence.
    """
    if recorded.timing is None or fresh.timing is None:
        return _decision(Verdict.INCONCLUSIVE, "no speed to compare: it was not timed then, or not now; audit it again")
    then, now = recorded.timing.speedup, fresh.timing.speedup
    least = (1 - max_regression) * then.lower
    told = f"{_told(now)} over the reference, recorded {_told(then)}"
    if now.upper >= least:
        return _decision(Verdict.PASS, f"speed is {told}, not clearly below {least:.3f}x")
    lost = f"speed is {told}: below {least:.3f}x, slower by {1 - now.value / then.value:.1%}"
    if not (fresh.timing.latency.settled and fresh.timing.reference_latency.settled):
        return _decision(Verdict.INCONCLUSIVE, f"{lost}, but latency never settled; audit it on a quieter host")
    reference = recorded.hardware.runtimes.get(_REFERENCE), fresh.hardware.runtimes.get(_REFERENCE)
    if reference[0] != reference[1]:
        return _decision(
            Verdict.INCONCLUSIVE,
            f"{lost}, but the reference ran in PyTorch {reference[0]} then and in {reference[1]} now, which may be "
            "what became faster; release the model again",
        )
    return _decision(Verdict.FAIL, lost)


def _told(speedup: Interval) -> str:
    return f"{speedup.value:.3f}x ({speedup.lower:.3f} to {speedup.upper:.3f})"


def _decision(verdict: Verdict, *reasons: str) -> Decision:
    return Decision(verdict=verdict, reasons=reasons)
