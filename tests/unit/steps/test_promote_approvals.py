"""Approvals by more than one person, kept with the version that they are about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from slipway.config import ApprovalParams
from slipway.decisions.approval import Word
from slipway.errors import TamperedError
from slipway.records import Verdict
from slipway.steps.promote import Today, approve, await_approval, challenge, consent, promote, reject
from slipway.stores.approvals import approval_tag, approvals_of
from tests.fakes.evidence import DATA_MD5
from tests.fakes.registry import FakeRegistry
from tests.unit.steps.registered import register_engine

NAME = "digits.x86"
TWO = ApprovalParams(required=True, persons=2)
LENIENT = Today(data_md5=DATA_MD5)  # a checkout that asks for nothing
ANN, CARL = (Word(person=name, reason=f"{name} says so", authenticated=True) for name in ("ann", "carl"))


@pytest.fixture
def registry(tmp_path: Path) -> FakeRegistry:
    """Version 1 is champion, and version 2 waits for two persons."""
    registry = FakeRegistry()
    for content in (b"first", b"second"):
        register_engine(registry, tmp_path, NAME, content)
    promote(registry, NAME, "1", DATA_MD5)
    waiting = await_approval(registry, NAME, "2", DATA_MD5, TWO)
    assert "waits for approval by 2 persons: slipway approve digits.x86 2" in waiting.reasons[0]
    return registry


def tags(registry: FakeRegistry) -> dict[str, str]:
    return registry.version(NAME, "2").tags


def age(registry: FakeRegistry, key: str, hours: float) -> None:
    """Let a time that is kept in a tag be longer ago."""
    before = datetime.fromisoformat(tags(registry)[key]) - timedelta(hours=hours)
    registry.tag(NAME, "2", key, before.isoformat())


def test_the_second_person_promotes(registry: FakeRegistry) -> None:
    for _ in range(2):  # the same person twice counts once
        first = approve(registry, NAME, "2", ANN, LENIENT)
        assert first.verdict is Verdict.INCONCLUSIVE
        assert first.reasons == ("digits.x86 version 2: 1 of 2 approvals; another person than ann must approve",)
        assert registry.aliases(NAME) == {"champion": "1", "challenger": "2"}
        assert "slipway.decision" not in tags(registry)

    assert approve(registry, NAME, "2", CARL, LENIENT).verdict is Verdict.PASS

    assert registry.aliases(NAME) == {"champion": "2", "previous": "1"}
    assert tags(registry)["slipway.approver"] == "ann, carl"
    assert datetime.fromisoformat(tags(registry)["slipway.decided_at"]).tzinfo == UTC
    kept = {one.person: one.reason for one in approvals_of(tags(registry))}
    assert kept == {"ann": "ann says so", "carl": "carl says so"}


def test_an_approver_s_clock_may_be_behind_that_of_the_release(registry: FakeRegistry) -> None:
    age(registry, "slipway.challenger_since", -1)
    assert approve(registry, NAME, "2", ANN, LENIENT).verdict is Verdict.INCONCLUSIVE
    assert approve(registry, NAME, "2", CARL, LENIENT).verdict is Verdict.PASS


def test_one_person_with_the_account_of_releases_is_not_two(tmp_path: Path) -> None:
    """Its password is in the environment that everybody of the team sources."""
    registry = FakeRegistry()
    register_engine(registry, tmp_path, NAME, b"first")
    registry.authenticated = "slipway"
    await_approval(registry, NAME, "1", DATA_MD5, TWO)

    assert approve(registry, NAME, "1", ANN, LENIENT).verdict is Verdict.INCONCLUSIVE
    account = Word(person="slipway", reason="me again", authenticated=True)
    for said in (approve, consent):
        refused = said(registry, NAME, "1", account, LENIENT)
        assert refused.verdict is Verdict.FAIL
        assert "slipway made it challenger" in refused.reasons[0]
    assert registry.champion(NAME) is None
    assert approve(registry, NAME, "1", CARL, LENIENT).verdict is Verdict.PASS


def test_a_checkout_that_asks_for_more_gets_more(registry: FakeRegistry) -> None:
    three = Today(approval=TWO.model_copy(update={"persons": 3}))
    assert approve(registry, NAME, "2", ANN, three).verdict is Verdict.INCONCLUSIVE
    assert approve(registry, NAME, "2", CARL, three).verdict is Verdict.INCONCLUSIVE
    assert approve(registry, NAME, "2", CARL, LENIENT).verdict is Verdict.PASS


def test_what_became_challenger_waits_whatever_a_flow_s_parameters_say(registry: FakeRegistry) -> None:
    """A release or canary whose parameters ask nobody must not get round it."""
    assert promote(registry, NAME, "2", DATA_MD5).reasons == (
        "digits.x86 version 2: 0 of 2 approvals; a person must approve",
    )
    for word, verdict in ((ANN, Verdict.INCONCLUSIVE), (CARL, Verdict.PASS)):
        assert consent(registry, NAME, "2", word, LENIENT).verdict is verdict
    assert registry.aliases(NAME) == {"champion": "1", "challenger": "2"}
    assert (tags(registry)["slipway.decision"], tags(registry)["slipway.approver"]) == ("approved", "ann, carl")
    assert promote(registry, NAME, "2", DATA_MD5, None, TWO).verdict is Verdict.PASS


def test_a_rejection_clears_what_was_approved(registry: FakeRegistry) -> None:
    approve(registry, NAME, "2", ANN, LENIENT)
    reject(registry, NAME, "2", "bob", "wrong colours")
    assert approvals_of(tags(registry)) == ()

    assert approve(registry, NAME, "2", CARL, LENIENT).verdict is Verdict.INCONCLUSIVE
    assert approve(registry, NAME, "2", ANN, LENIENT).verdict is Verdict.PASS


def test_a_rollback_clears_what_was_approved(registry: FakeRegistry) -> None:
    for word in (ANN, CARL):
        approve(registry, NAME, "2", word, LENIENT)
    registry.rollback(NAME)

    assert approve(registry, NAME, "2", ANN, LENIENT).verdict is Verdict.INCONCLUSIVE
    assert registry.champion(NAME) == "1"


def test_an_old_champion_comes_back_by_new_approvals_alone(registry: FakeRegistry, tmp_path: Path) -> None:
    for word in (ANN, CARL):
        approve(registry, NAME, "2", word, LENIENT)
    third = register_engine(registry, tmp_path, NAME, b"third").version
    assert promote(registry, NAME, third, DATA_MD5).verdict is Verdict.PASS

    assert approve(registry, NAME, "2", CARL, LENIENT).verdict is Verdict.INCONCLUSIVE
    assert registry.champion(NAME) == third


def test_an_approval_of_other_evidence_stays_out(registry: FakeRegistry) -> None:
    approve(registry, NAME, "2", ANN, LENIENT)
    (kept,) = approvals_of(tags(registry))
    registry.tag(NAME, "2", *approval_tag(kept.model_copy(update={"evidence": "0" * 64})))

    assert approve(registry, NAME, "2", CARL, LENIENT).verdict is Verdict.INCONCLUSIVE


def test_a_claimed_name_is_not_kept_where_two_are_asked_for(registry: FakeRegistry) -> None:
    refused = approve(registry, NAME, "2", Word(person="slipway (for carl, claimed)", reason="yes"), LENIENT)

    assert refused.verdict is Verdict.FAIL
    assert "nobody has checked that slipway (for carl, claimed) is one" in refused.reasons[0]
    assert approvals_of(tags(registry)) == ()


def test_evidence_that_does_not_hold_keeps_no_approval(registry: FakeRegistry) -> None:
    assert approve(registry, NAME, "2", ANN, Today(data_md5="e" * 32 + ".dir")).verdict is Verdict.FAIL
    assert approvals_of(tags(registry)) == ()


def test_an_approval_that_comes_too_late_is_refused_until_it_is_released_again(registry: FakeRegistry) -> None:
    expiring = TWO.model_copy(update={"expires_hours": 72})
    assert challenge(registry, NAME, "2", DATA_MD5, None, expiring).verdict is Verdict.PASS
    approve(registry, NAME, "2", ANN, LENIENT)
    age(registry, "slipway.challenger_since", 73)
    since = tags(registry)["slipway.challenger_since"][:19]

    for late in (approve, consent):
        refused = late(registry, NAME, "2", CARL, LENIENT)
        assert refused.verdict is Verdict.FAIL
        assert refused.reasons == (
            f"digits.x86 version 2: it has waited for approval since {since}Z, longer than the 72 hours it may; "
            "release again",
        )
    assert registry.aliases(NAME) == {"champion": "1", "challenger": "2"}

    assert "within 72 hours" in await_approval(registry, NAME, "2", DATA_MD5, expiring).reasons[0]
    assert approve(registry, NAME, "2", CARL, LENIENT).verdict is Verdict.INCONCLUSIVE  # ann's was for the other wait
    assert approve(registry, NAME, "2", ANN, LENIENT).verdict is Verdict.PASS


def test_a_release_in_time_does_not_prolong_the_wait(registry: FakeRegistry) -> None:
    since = tags(registry)["slipway.challenger_since"]
    await_approval(registry, NAME, "2", DATA_MD5, TWO)
    assert tags(registry)["slipway.challenger_since"] == since


def test_a_consent_in_time_outlives_the_wait(registry: FakeRegistry) -> None:
    """A rollout may take longer than people had, and another release may come meanwhile."""
    expiring = TWO.model_copy(update={"expires_hours": 72})
    challenge(registry, NAME, "2", DATA_MD5, None, expiring)
    for word in (ANN, CARL):
        consent(registry, NAME, "2", word, LENIENT)
    age(registry, "slipway.challenger_since", 73)

    await_approval(registry, NAME, "2", DATA_MD5, expiring)

    assert promote(registry, NAME, "2", DATA_MD5, None, expiring).verdict is Verdict.PASS


def test_stricter_terms_are_taken_up_while_it_waits_and_milder_ones_are_not(registry: FakeRegistry) -> None:
    for persons, recorded in ((3, "3"), (1, "3")):
        challenge(registry, NAME, "2", DATA_MD5, None, TWO.model_copy(update={"persons": persons}))
        assert tags(registry)["slipway.approvals_needed"] == recorded


@pytest.mark.parametrize(
    ("key", "value"), [("slipway.approvals_needed", "none"), ("slipway.challenger_since", "yesterday")]
)
def test_a_tag_that_holds_nonsense_is_told(key: str, value: str, registry: FakeRegistry) -> None:
    registry.tag(NAME, "2", key, value)
    with pytest.raises(TamperedError, match=r"was changed"):
        approve(registry, NAME, "2", ANN, LENIENT)


def test_any_name_finds_a_key(registry: FakeRegistry) -> None:
    """MLflow takes neither @ nor quotes in the key of a tag; two names never share one."""
    names = ("a@x.org", "a x.org", "a/x.org", "a_x.org", "a" * 300, "ä" * 300)
    for name in names:
        assert (
            approve(
                registry,
                NAME,
                "2",
                Word(person=name, reason="", authenticated=True),
                Today(approval=TWO.model_copy(update={"persons": 9})),
            ).verdict
            is Verdict.INCONCLUSIVE
        )
    assert {one.person for one in approvals_of(tags(registry))} == set(names)
    assert all(len(key) < 200 for key in tags(registry))
