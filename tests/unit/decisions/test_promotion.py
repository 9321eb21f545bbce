"""The rule that is checked again before the champion alias moves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.decisions.promotion import REFUSING_TAGS, may_promote
from slipway.records import Decision, Evidence, Verdict
from tests.unit.decisions.builders import evidence, verdict


def ask(
    about: Evidence | None = None,
    digest: str = "a",
    data_md5: str | None = "m0",
    tag: str | None = None,
    override: bool = False,
    stale: tuple[str, ...] | None = None,
) -> Decision:
    return may_promote(
        about or evidence("a"),
        registered_digest=digest,
        current_data_md5=data_md5,
        decision_tag=tag,
        override=override,
        stale=stale,
    )


def test_unchanged_passing_evidence_promotes() -> None:
    assert ask().verdict is Verdict.PASS


def test_unknown_data_is_told_and_does_not_refuse() -> None:
    decision = ask(data_md5=None)
    assert decision.verdict is Verdict.PASS
    assert "data: measured on md5 m0; today's data is not known here" in decision.reasons


@given(st.sampled_from(Verdict), st.dictionaries(st.text(min_size=1), st.sampled_from(Verdict)))
def test_only_a_pass_with_passing_gates_promotes(concluded: Verdict, gates: dict[str, Verdict]) -> None:
    """A decision of PASS that its own gates contradict is refused, and so is one without gates."""
    about = evidence("a", decision=verdict(concluded, "w"), gates={k: verdict(v, "w") for k, v in gates.items()})
    allowed = concluded is Verdict.PASS and set(gates.values()) == {Verdict.PASS}
    assert (ask(about).verdict is Verdict.PASS) == allowed
    assert (ask(about, override=True).verdict is Verdict.PASS) == allowed


def test_refusal_names_the_gate_and_what_to_do() -> None:
    about = evidence(
        "a",
        decision=verdict(Verdict.FAIL, "accuracy: top1 drop >= 0.0200"),
        gates={"accuracy": verdict(Verdict.FAIL, "top1 drop >= 0.0200")},
    )
    assert ask(about) == verdict(
        Verdict.FAIL,
        "evidence: the release concluded FAIL, and only PASS is promoted; release the model again",
        "gates: accuracy: top1 drop >= 0.0200",
    )


@pytest.mark.parametrize("override", [False, True])
def test_another_file_than_the_measured_one_is_refused(override: bool) -> None:
    decision = ask(digest="b", override=override)
    assert decision == verdict(
        Verdict.FAIL, "file: registered sha256 is b, the evidence is about a; release the model again"
    )


def test_evidence_without_a_file_is_refused() -> None:
    assert ask(evidence("a").model_copy(update={"digest": None})).verdict is Verdict.FAIL


@pytest.mark.parametrize("override", [False, True])
def test_changed_data_is_refused(override: bool) -> None:
    decision = ask(data_md5="m1", override=override)
    assert decision.verdict is Verdict.FAIL
    assert decision.reasons == ("data: the data is now md5 m1, the evidence is about m0; release the model again",)


@pytest.mark.parametrize("tag", REFUSING_TAGS)
def test_an_earlier_refusal_stands_unless_overridden(tag: str) -> None:
    assert ask(tag=tag) == verdict(
        Verdict.FAIL, f"earlier decision: this file was {tag}, and only `slipway approve` overrides that"
    )
    overridden = ask(tag=tag, override=True)
    assert overridden.verdict is Verdict.PASS
    assert f"earlier decision: this file was {tag}, which was overridden" in overridden.reasons


def test_an_earlier_approval_is_no_objection() -> None:
    assert ask(tag="approved").verdict is Verdict.PASS


@pytest.mark.parametrize("override", [False, True])
def test_an_engine_that_is_stale_where_it_would_serve_is_refused(override: bool) -> None:
    decision = ask(stale=("driver 570, here 580",), override=override)
    assert decision == verdict(Verdict.FAIL, "host: the engine is stale: driver 570, here 580; release the model again")
    assert ask(stale=()).verdict is Verdict.PASS
    assert "host: the host that would serve it is not known here" in ask(stale=None).reasons
