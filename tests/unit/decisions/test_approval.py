"""Who has approved a version, whether they are enough, and whether it was in time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.config import ApprovalParams
from slipway.decisions.approval import (
    Approval,
    Terms,
    Wait,
    Word,
    counted,
    enough,
    identified,
    in_time,
    terms,
)
from slipway.records import Verdict

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
WAITING = Wait(challenger=True, since=NOON)
TWO = Terms(persons=2)
EVIDENCE = "e" * 64


def hours(count: float) -> datetime:
    """So many hours after noon."""
    return NOON + timedelta(hours=count)


def approval(person: str, after: float = 1, evidence: str = EVIDENCE, *, authenticated: bool = True) -> Approval:
    return Approval(person=person, reason="yes", authenticated=authenticated, when=hours(after), evidence=evidence)


def who(*approvals: Approval, wait: Wait = WAITING, held_to: Terms = TWO) -> tuple[str, ...]:
    return counted(approvals, wait, EVIDENCE, held_to)


def test_two_persons_are_enough_and_the_first_is_named_first() -> None:
    persons = who(approval("carl", 2), approval("ann", 1))

    assert persons == ("ann", "carl")
    assert enough(persons, TWO).verdict is Verdict.PASS


def test_the_same_person_twice_counts_once() -> None:
    decision = enough(who(approval("ann", 1), approval("ann", 2)), TWO)

    assert decision.verdict is Verdict.INCONCLUSIVE
    assert decision.reasons == ("1 of 2 approvals; another person than ann must approve",)


def test_who_approved_so_far_is_told() -> None:
    three = Terms(persons=3)
    assert enough(("ann", "carl"), three).reasons == (
        "2 of 3 approvals; another person than ann and carl must approve",
    )
    assert enough((), TWO).reasons == ("0 of 2 approvals; a person must approve",)


def test_an_approval_of_other_evidence_does_not_count() -> None:
    assert who(approval("ann", evidence="0" * 64), approval("carl")) == ("carl",)


@pytest.mark.parametrize("decision", ["rejected", "rolled back"])
def test_an_approval_before_a_refusal_does_not_count(decision: str) -> None:
    wait = WAITING.model_copy(update={"decision": decision, "decided_at": hours(2)})
    assert who(approval("ann", 1), approval("carl", 3), wait=wait) == ("carl",)


def test_an_approval_before_the_version_became_challenger_does_not_count() -> None:
    assert who(approval("ann", -1), approval("carl", 1)) == ("carl",)


def test_the_approvals_of_a_promotion_are_spent_once_it_is_done() -> None:
    """One that was cut short leaves the challenger, and goes on with them."""
    promoted = WAITING.model_copy(update={"decision": "promoted", "decided_at": hours(2)})
    given_before = (approval("ann"), approval("carl"))

    assert who(*given_before, wait=promoted) == ("ann", "carl")
    assert who(*given_before, wait=promoted.model_copy(update={"challenger": False})) == ()


def test_a_consent_spends_nothing() -> None:
    wait = WAITING.model_copy(update={"decision": "approved", "decided_at": hours(2)})
    assert who(approval("ann"), approval("carl"), wait=wait) == ("ann", "carl")


def test_a_name_that_nobody_has_checked_counts_alone_where_one_person_is_asked_for() -> None:
    claimed = approval("ann", authenticated=False)

    assert who(claimed, approval("carl")) == ("carl",)
    assert who(claimed, held_to=Terms(persons=1)) == ("ann",)


@given(st.lists(st.tuples(st.sampled_from(["ann", "bob", "carl"]), st.floats(-5, 5), st.booleans())))
def test_no_more_persons_count_than_there_are_authenticated_names(given_: list[tuple[str, float, bool]]) -> None:
    approvals = [approval(name, after, authenticated=known) for name, after, known in given_]

    assert set(who(*approvals)) == {name for name, after, known in given_ if known and hours(after) > NOON}


@pytest.mark.parametrize(
    ("asked", "recorded", "held_to"),
    [
        (ApprovalParams(), None, Terms(persons=0)),
        (ApprovalParams(required=True), None, Terms(persons=1)),
        (ApprovalParams(required=True, persons=2, expires_hours=72), None, Terms(persons=2, expires_hours=72)),
        (ApprovalParams(), TWO, TWO),
        (ApprovalParams(required=True), TWO, TWO),
        (ApprovalParams(required=True, persons=3), TWO, Terms(persons=3)),
        (
            ApprovalParams(required=True, expires_hours=72),
            Terms(persons=2, expires_hours=24),
            Terms(persons=2, expires_hours=24),
        ),
        (ApprovalParams(required=True, expires_hours=12), TWO, Terms(persons=2, expires_hours=12)),
    ],
)
def test_the_stricter_of_both_terms_holds(asked: ApprovalParams, recorded: Terms | None, held_to: Terms) -> None:
    assert terms(asked, recorded) == held_to


def test_a_wait_expires_and_tells_since_when() -> None:
    held_to = Terms(persons=1, expires_hours=72)

    assert in_time(WAITING, held_to, hours(72)).verdict is Verdict.PASS
    late = in_time(WAITING, held_to, hours(72.1))
    assert late.verdict is Verdict.FAIL
    told = "it has waited for approval since 2026-11-20T12:00:00Z, longer than the 72 hours it may; release again"
    assert late.reasons == (told,)
    assert in_time(WAITING, TWO, hours(10_000)).verdict is Verdict.PASS


def test_what_was_decided_on_waits_no_longer() -> None:
    """To approve what was rejected, or to bring an old champion back, is a decision of its own."""
    held_to = Terms(persons=1, expires_hours=1)

    for decision in ("rejected", "rolled back"):
        ended = WAITING.model_copy(update={"decision": decision, "decided_at": hours(1)})
        assert in_time(ended, held_to, hours(9)).verdict is Verdict.PASS
    earlier = WAITING.model_copy(update={"decision": "rejected", "decided_at": hours(-1)})
    consented = WAITING.model_copy(update={"decision": "approved", "decided_at": hours(1)})
    assert {in_time(one, held_to, hours(9)).verdict for one in (earlier, consented)} == {Verdict.FAIL}
    assert in_time(Wait(challenger=False), held_to, hours(9)).verdict is Verdict.PASS


def test_of_two_persons_each_must_be_known() -> None:
    claimed = Word(person="slipway (for ann, claimed)", reason="yes")

    assert identified(claimed, WAITING, Terms(persons=1)).verdict is Verdict.PASS
    refused = identified(claimed, WAITING, TWO)
    assert refused.verdict is Verdict.FAIL
    assert refused.reasons[0].startswith(
        "2 persons must approve, and nobody has checked that slipway (for ann, claimed) is one; let each of them run"
    )
    assert identified(claimed.model_copy(update={"authenticated": True}), WAITING, TWO).verdict is Verdict.PASS


def test_whoever_made_it_challenger_is_none_of_two_persons() -> None:
    """Many know the password of the account of releases: with it one person would be two."""
    asked = WAITING.model_copy(update={"by": "slipway"})
    word = Word(person="slipway", reason="yes", authenticated=True)

    assert who(approval("ann"), approval("slipway", 2), wait=asked) == ("ann",)
    assert who(approval("slipway"), wait=asked, held_to=Terms(persons=1)) == ("slipway",)
    assert identified(word, asked, Terms(persons=1)).verdict is Verdict.PASS
    assert identified(word, asked, TWO).reasons == (
        "slipway made it challenger, and is none of the 2 persons who must approve; let others approve, each as "
        "themselves",
    )
