"""A rollout's phases: which follow which, what promotes, what rolls back, and when it is given up."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from slipway.config import CanaryParams
from slipway.decisions.canary import Seen, advance, counted_anew, readings
from slipway.decisions.confidence_sequences import quantile_bounds, share_bounds
from slipway.decisions.paired_bets import Pairs, loss_lower_bound, loss_upper_bound
from slipway.errors import BadInputError
from slipway.records import Contender, Decision, Phase, Reading, Rollout, Verdict
from slipway.records.rollout import StepStart
from tests.unit.decisions.builders import verdict

POLICY = CanaryParams()
GATES = ("latency_p95", "errors", "accuracy")


def rollout(phase: Phase = Phase.PROGRESSING, step: int = 0, began: int = 0) -> Rollout:
    contender = Contender(version="1", digest="d")
    return Rollout(
        rollout_id="r",
        name="digits.x86",
        champion=contender,
        challenger=contender,
        policy_json=POLICY.model_dump_json(),
        phase=phase,
        step=step,
        steps_begun=(StepStart(challenger_answers=began),),
        share_percent=POLICY.steps[step] if phase is Phase.PROGRESSING else 0.0,
        started_s=0,
        phase_since_s=0,
    )


def seen(n: int = 0, **other: object) -> Seen:
    return Seen(np.full(n, 5.0), np.full(n, 5.0), **other)  # type: ignore[arg-type]


def found(*values: Verdict, gates: tuple[str, ...] = GATES) -> tuple[Reading, ...]:
    return tuple(
        Reading(gate=gate, decision=verdict(value, "why"), figures={})
        for gate, value in zip(gates, values, strict=False)
    )


def all_pass() -> tuple[Reading, ...]:
    return found(Verdict.PASS, Verdict.PASS, Verdict.PASS)


def next_of(
    before: Rollout,
    own: tuple[Reading, ...],
    what: Seen,
    approval_required: bool = False,
    policy: CanaryParams = POLICY,
) -> Rollout:
    return advance(policy, before, own, what, approval_required=approval_required)


def test_a_pending_rollout_begins_with_the_first_step_and_remembers_what_was_seen() -> None:
    after = next_of(rollout(Phase.PENDING, -1), (), seen(7, champion_errors=2))
    assert (after.phase, after.step, after.share_percent) == (Phase.PROGRESSING, 0, 1)
    assert after.steps_begun[-1] == StepStart(champion_answers=7, challenger_answers=7, champion_errors=2)


@pytest.mark.parametrize(("answers", "step"), [(0, 0), (199, 0), (200, 1), (500, 1)])
def test_a_step_takes_as_many_answers_of_its_own(answers: int, step: int) -> None:
    undecided = found(Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE)
    after = next_of(rollout(began=1000), undecided, seen(1000 + answers))
    assert (after.step, after.share_percent) == (step, POLICY.steps[step])


def test_every_step_is_taken_in_turn_and_then_the_challenger_is_promoted() -> None:
    after, shares = rollout(Phase.PENDING, -1), []
    for look in range(20):
        after = next_of(after, all_pass(), seen(100 * look))
        shares.append(after.share_percent)
        if after.phase.ended:
            break
    assert list(dict.fromkeys(shares)) == [1, 5, 25, 50, 100]
    assert after.phase is Phase.PROMOTED


def test_where_a_person_is_asked_it_waits_with_its_share() -> None:
    after = next_of(rollout(step=3), all_pass(), seen(200), approval_required=True)
    assert (after.phase, after.step) == (Phase.WAITING, 3)
    assert next_of(after, all_pass(), seen(300), approval_required=True).phase is Phase.WAITING


@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.PROGRESSING, Phase.WAITING, Phase.PROMOTED])
@pytest.mark.parametrize("failing", range(3))
def test_one_failing_gate_rolls_back_from_every_phase_but_an_end(phase: Phase, failing: int) -> None:
    values = [Verdict.PASS] * 3
    values[failing] = Verdict.FAIL
    after = next_of(rollout(phase, 3), found(*values), seen(200))
    assert (after.phase, after.share_percent) == (Phase.ROLLED_BACK, 0)
    assert after.reasons == (f"{GATES[failing]}: why",)


@pytest.mark.parametrize("phase", [Phase.ROLLED_BACK, Phase.INCONCLUSIVE, Phase.ERROR])
def test_nothing_follows_an_end(phase: Phase) -> None:
    before = rollout(phase, 3)
    assert next_of(before, found(Verdict.FAIL), seen(30_000)) == before
    assert next_of(before, all_pass(), seen(30_000)) == before


def test_a_promoted_engine_stays_while_nothing_fails() -> None:
    after = next_of(rollout(Phase.PROMOTED, 3), found(Verdict.INCONCLUSIVE), seen(30_000))
    assert after.phase is Phase.PROMOTED


@pytest.mark.parametrize("missing", GATES)
def test_a_gate_that_was_not_read_does_not_promote(missing: str) -> None:
    own = tuple(one for one in all_pass() if one.gate != missing)
    after = next_of(rollout(step=3), own, seen(20_000))
    assert after.phase is Phase.INCONCLUSIVE
    assert f"{missing}: was not read" in after.reasons


def test_undecided_gates_stay_at_the_last_step_until_the_budget_is_spent() -> None:
    own = found(Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.PASS)
    stays = next_of(rollout(step=3), own, seen(19_999))
    assert (stays.phase, stays.reasons) == (Phase.PROGRESSING, ("errors: why",))
    ended = next_of(stays, own, seen(20_000))
    assert (ended.phase, ended.share_percent) == (Phase.INCONCLUSIVE, 0)
    assert ended.reasons == ("20,000 requests of max_requests 20,000 did not decide", "errors: why")


def test_what_passes_with_the_last_of_the_budget_is_promoted() -> None:
    assert next_of(rollout(step=3), all_pass(), seen(20_000)).phase is Phase.PROMOTED


def test_no_traffic_is_inconclusive_once_the_minutes_are_over_and_never_before() -> None:
    nothing = seen(0)
    before = next_of(rollout(), readings(POLICY, None, nothing), nothing)
    assert (before.phase, before.step) == (Phase.PROGRESSING, 0)
    late = seen(0, minutes=1440.0)
    after = next_of(rollout(), readings(POLICY, None, late), late)
    assert after.phase is Phase.INCONCLUSIVE
    assert after.reasons[0] == "1,440 minutes of max_minutes 1440 did not decide, with no traffic"


def test_without_evidence_on_accuracy_nothing_is_promoted() -> None:
    what = seen(20_000)
    after = next_of(rollout(step=3), readings(POLICY, None, what), what)
    assert after.phase is Phase.INCONCLUSIVE
    assert any("nothing tells of accuracy" in reason for reason in after.reasons)


@pytest.mark.parametrize("step", [0, 3])
@pytest.mark.parametrize("drift", [Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.ERROR])
def test_drift_holds_a_rollout_where_it_is(step: int, drift: Verdict) -> None:
    what = seen(1000, drift=verdict(drift, "psi 0.4"), disagreed=np.zeros(5000, bool))
    own = readings(POLICY, None, what)
    after = next_of(rollout(step=step), own, what)
    assert (after.phase, after.step, after.reasons) == (Phase.PROGRESSING, step, ("drift: psi 0.4",))


def test_a_stable_input_does_not_promote_by_itself() -> None:
    what = seen(1000, drift=verdict(Verdict.PASS, "psi 0"))
    assert next_of(rollout(step=3), readings(POLICY, None, what), what).phase is Phase.PROGRESSING


def test_an_error_of_a_gate_holds_too() -> None:
    assert next_of(rollout(), found(Verdict.ERROR, Verdict.PASS, Verdict.PASS), seen(500)).step == 0


verdicts = st.sampled_from([Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.ERROR])
looks = st.lists(
    st.tuples(st.integers(0, 3000), st.lists(verdicts, min_size=3, max_size=3), st.integers(0, 500)), max_size=25
)
ORDER = [Phase.PENDING, Phase.PROGRESSING, Phase.WAITING, Phase.PROMOTED]


@given(looks, st.booleans())
def test_phases_come_in_order_and_only_a_look_at_which_all_pass_promotes(
    drawn: list[tuple[int, list[Verdict], int]], approval_required: bool
) -> None:
    after, answers, minutes = rollout(Phase.PENDING, -1), 0, 0
    for more, values, passed in drawn:
        before, answers, minutes = after, answers + more, minutes + passed
        after = next_of(before, found(*values), seen(answers, minutes=float(minutes)), approval_required)
        if after.phase in ORDER:
            assert 0 <= ORDER.index(after.phase) - ORDER.index(before.phase) <= 2
            assert after.step - before.step in {0, 1}
            assert after.share_percent >= before.share_percent
        else:
            assert after.share_percent == 0
        if Verdict.FAIL in values and not (before.phase.ended and before.phase is not Phase.PROMOTED):
            assert after.phase is Phase.ROLLED_BACK
        if after.phase in {Phase.WAITING, Phase.PROMOTED} and after.phase is not before.phase:
            assert set(values) == {Verdict.PASS}
            assert before.step == len(POLICY.steps) - 1
            assert (after.phase is Phase.WAITING) == approval_required


@given(looks)
def test_the_same_look_again_goes_no_further(drawn: list[tuple[int, list[Verdict], int]]) -> None:
    """A controller that was killed before it saved looks again at what it had seen."""
    after, answers = rollout(), 0
    for more, values, _ in drawn:
        answers += more
        after = next_of(after, found(*values), seen(answers))
        again = next_of(after, found(*values), seen(answers))
        assert (again.phase, again.step, again.share_percent) == (after.phase, after.step, after.share_percent)


def bimodal(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    drawn: NDArray[np.float64] = np.where(rng.random(n) < 0.1, 30.0, 10.0) * rng.lognormal(0, 0.1, n)
    return drawn


def test_the_readings_are_one_of_each_gate_that_was_asked_for() -> None:
    assert tuple(one.gate for one in readings(POLICY, None, seen(10))) == GATES
    stable = verdict(Verdict.PASS)
    with_all = readings(POLICY, 50.0, seen(10, drift=stable))
    assert tuple(one.gate for one in with_all) == (*GATES, "latency_p99_slo", "drift")


@pytest.mark.parametrize(("slo_p99_ms", "gates"), [(None, 3), (500.0, 4)])
def test_promotion_asks_at_alpha_and_rollback_at_its_part_of_the_gates_and_steps(
    slo_p99_ms: float | None, gates: int
) -> None:
    """DESIGN's 4 / alpha, and 4 m / alpha for each of the four steps."""
    rng = np.random.default_rng(1)
    what = Seen(bimodal(rng, 3000), bimodal(rng, 3000), champion_errors=9, challenger_errors=9)
    latency, errors, *_ = readings(POLICY, slo_p99_ms, what)
    ordered = np.sort(what.champion_ms)
    roll_back = 0.05 / gates / 4
    assert latency.figures["champion_lower_ms"] == quantile_bounds(ordered, 0.95, 4 / 0.05)[0]
    assert latency.figures["champion_upper_ms"] == quantile_bounds(ordered, 0.95, 4 / roll_back)[1]
    assert errors.figures["challenger_upper"] == share_bounds(9, 3009, 2 / 0.05)[1]
    assert errors.figures["challenger_lower"] == share_bounds(9, 3009, 2 / (roll_back / 3))[0]


def test_accuracy_rolls_back_at_its_part_of_the_gates() -> None:
    what = seen(100, disagreed=np.arange(1000) < 80, gained=np.repeat([-1.0, 1.0, 0.0], [60, 20, 920]))
    accuracy = readings(POLICY, None, what)[2]
    assert accuracy.figures["loss_lower"] == loss_lower_bound(Pairs(20, 60, 920), 0.05 / 3)
    assert accuracy.figures["loss_upper"] == loss_upper_bound(Pairs(20, 60, 920), 0.05)


def test_a_load_that_trebles_during_the_rollout_rolls_back_no_equal_challenger() -> None:
    """Most of the champion's answers are from before, most of the challenger's from after."""
    rng = np.random.default_rng(1)
    starts = (StepStart(), *[StepStart(champion_answers=19_800, challenger_answers=200)] * 2)
    champion = np.concatenate([bimodal(rng, 19_800), 3 * bimodal(rng, 1_900)])
    what = Seen(champion, np.concatenate([bimodal(rng, 200), 3 * bimodal(rng, 1000)]))
    steady = readings(POLICY, None, what, starts)[0].decision.verdict
    assert steady is not Verdict.FAIL
    assert readings(POLICY, None, what)[0].decision.verdict is Verdict.FAIL


def test_errors_are_compared_from_the_start_of_the_step_on() -> None:
    """What failed at an earlier step did so in other times; it was judged there."""
    what = seen(4000, champion_errors=0, challenger_errors=100)
    starts = (StepStart(), StepStart(champion_answers=100, challenger_answers=100, challenger_errors=100))
    assert readings(POLICY, None, what)[1].decision.verdict is Verdict.FAIL
    assert readings(POLICY, None, what, starts)[1].decision.verdict is Verdict.PASS


def test_a_log_that_was_lost_concludes_nothing() -> None:
    starts = (StepStart(champion_answers=900, challenger_answers=900, champion_errors=9, challenger_errors=9),)
    found_then = readings(POLICY, 50.0, seen(10), starts)
    assert {one.decision.verdict for one in found_then} == {Verdict.INCONCLUSIVE}
    assert next_of(rollout(began=900), found_then, seen(10)).step == 0


def test_what_a_promoted_engine_answers_while_it_bakes_counts_for_its_errors_and_its_slo() -> None:
    slow = np.random.default_rng(1).choice([10.0, 99.0], 3000, p=[0.9, 0.1])
    what = seen(2000, baked_ms=slow)
    by_gate = {one.gate: one for one in readings(POLICY, 50.0, what)}
    assert by_gate["latency_p99_slo"].decision.verdict is Verdict.FAIL
    assert by_gate["errors"].figures["challenger_n"] == 5000
    assert by_gate["latency_p95"].figures["challenger_n"] == 2000


def test_labels_that_contradict_the_comparisons_count_as_differing() -> None:
    what = seen(10, disagreed=np.zeros(100, bool), gained=np.array([-1.0, 1.0, 0.0]))
    figures = readings(POLICY, None, what)[2].figures
    assert (figures["disagreed"], figures["mirrored"], figures["counted_as_lost"]) == (2, 100, 1)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -1.0])
@pytest.mark.parametrize("name", ["champion_ms", "challenger_ms", "baked_ms"])
def test_latencies_that_are_no_numbers_of_milliseconds_are_refused(name: str, wrong: float) -> None:
    arrays = {"champion_ms": np.ones(3), "challenger_ms": np.ones(3), name: np.array([1.0, wrong, 2.0])}
    with pytest.raises(BadInputError, match=f"{name} must be at least 0 and finite, found 1 of 3 not so"):
        Seen(**arrays)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [np.nan, 0.5, 2.0])
def test_gains_other_than_of_a_zero_one_score_are_refused(wrong: float) -> None:
    with pytest.raises(BadInputError, match="gained must be -1, 0 or 1, found 1 of 2 not so"):
        seen(1, gained=np.array([0.0, wrong]))


def test_after_a_loss_of_logs_errors_are_counted_from_what_is_left() -> None:
    """A controller that resumes finds only the newest parts of a long log."""
    began = StepStart(champion_answers=900_000, challenger_answers=9_000)
    resumed = rollout().model_copy(update={"steps_begun": (StepStart(), began)})
    left = seen(1_000)

    anew = counted_anew(resumed, left)

    assert anew.steps_begun == (StepStart(), left.counts())
    later = seen(1_500, challenger_errors=60)
    errors = next(one for one in readings(POLICY, None, later, anew.steps_begun) if one.gate == "errors")
    assert errors.decision.verdict is Verdict.FAIL
    assert (errors.figures["champion_n"], errors.figures["challenger_n"]) == (500, 560)
    assert counted_anew(anew, later) is anew


def test_a_rollout_that_was_stored_before_its_steps_were_remembered_is_read() -> None:
    stored = rollout().model_dump()
    del stored["steps_begun"]
    assert next_of(Rollout.model_validate(stored), all_pass(), seen(200)).step == 1


def test_a_look_at_twenty_thousand_of_each_costs_milliseconds() -> None:
    """About two; two hundred would be a mistake of another order."""
    rng = np.random.default_rng(1)
    what = Seen(
        bimodal(rng, 20_000),
        bimodal(rng, 20_000),
        disagreed=rng.random(20_000) < 0.01,
        gained=np.zeros(20_000),
        drift=Decision(verdict=Verdict.PASS, reasons=()),
    )
    began = time.perf_counter()
    for _ in range(5):
        readings(POLICY, 100.0, what)
    assert (time.perf_counter() - began) / 5 < 0.2
