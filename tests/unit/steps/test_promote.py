from __future__ import annotations

from pathlib import Path

import pytest

from slipway.decisions.approval import Word
from slipway.errors import BadInputError, RejectedError
from slipway.records import Decision, Verdict
from slipway.steps.promote import Today, approve, await_approval, challenge, consent, promote, reject
from slipway.stores.registry import RegisteredEngine
from tests.fakes.evidence import DATA_MD5, HARDWARE
from tests.fakes.registry import FakeRegistry
from tests.unit.steps.registered import register_engine

NAME = "digits.x86"
TODAY = Today(data_md5=DATA_MD5)
FAILED = Decision(verdict=Verdict.FAIL, reasons=("drop 0.05 > 0.010",))


def said(person: str, reason: str = "looks fine", *, authenticated: bool = False) -> Word:
    """A person's word."""
    return Word(person=person, reason=reason, authenticated=authenticated)


@pytest.fixture
def registry(tmp_path: Path) -> FakeRegistry:
    """Two versions whose evidence passed."""
    registry = FakeRegistry()
    for content in (b"first", b"second"):
        register_engine(registry, tmp_path, NAME, content)
    return registry


def test_a_version_that_passed_becomes_champion_and_the_old_one_previous(registry: FakeRegistry) -> None:
    first, second = (promote(registry, NAME, version, DATA_MD5) for version in ("1", "2"))

    assert first == Decision(verdict=Verdict.PASS, reasons=("digits.x86 version 1 is the champion now",))
    assert second.verdict is Verdict.PASS
    assert registry.aliases(NAME) == {"champion": "2", "previous": "1"}
    assert registry.version(NAME, "2").tags["slipway.decision"] == "promoted"
    assert "slipway.approver" not in registry.version(NAME, "2").tags


def test_promoting_the_champion_again_changes_nothing(registry: FakeRegistry) -> None:
    for version in ("1", "2"):
        promote(registry, NAME, version, DATA_MD5)

    again = promote(registry, NAME, "2", DATA_MD5)

    assert again == Decision(verdict=Verdict.PASS, reasons=("digits.x86 version 2 is the champion already",))
    assert registry.aliases(NAME) == {"champion": "2", "previous": "1"}


@pytest.mark.parametrize(
    "changes",
    [
        {"gates": {"accuracy": FAILED}},
        {"gates": {}},
        {"decision": FAILED},
        {"decision": Decision(verdict=Verdict.INCONCLUSIVE, reasons=("more examples",))},
    ],
    ids=["a gate failed", "no gates", "the release failed", "inconclusive"],
)
def test_evidence_that_does_not_pass_is_refused_and_no_person_can_override_it(
    changes: dict[str, object], registry: FakeRegistry, tmp_path: Path
) -> None:
    promote(registry, NAME, "1", DATA_MD5)
    version = register_engine(registry, tmp_path, NAME, b"third", **changes).version

    for decision in (
        promote(registry, NAME, version, DATA_MD5),
        approve(registry, NAME, version, said("ada", "I want it"), TODAY),
    ):
        assert decision.verdict is not Verdict.PASS
    assert registry.aliases(NAME) == {"champion": "1"}
    assert "slipway.decision" not in registry.version(NAME, version).tags


def test_a_version_measured_on_other_data_is_refused(registry: FakeRegistry) -> None:
    decision = promote(registry, NAME, "1", "e" * 32 + ".dir")

    assert decision.verdict is Verdict.FAIL
    assert decision.reasons == (
        f"data: the data is now md5 {'e' * 32}.dir, the evidence is about {DATA_MD5}; release the model again",
    )
    assert registry.champion(NAME) is None


def test_data_that_is_not_known_here_does_not_object(registry: FakeRegistry) -> None:
    assert promote(registry, NAME, "1", None).verdict is Verdict.PASS


def test_another_file_than_the_measured_one_is_refused(registry: FakeRegistry) -> None:
    version = registry.models[NAME].versions[0]
    assert version.evidence is not None
    changed = version.evidence.model_copy(update={"digest": "0" * 64})
    evidence = registry.version(NAME, "1").model_copy(update={"evidence": changed})

    class Registry(FakeRegistry):
        def version(self, name: str, version: str) -> RegisteredEngine:
            return evidence

    decision = promote(Registry(), NAME, "1", DATA_MD5)

    assert decision.verdict is Verdict.FAIL
    assert decision.reasons[0].startswith("file: registered sha256 is ")


def test_a_rejected_version_is_promoted_by_nobody_but_a_person(registry: FakeRegistry) -> None:
    promote(registry, NAME, "1", DATA_MD5)
    rejected = reject(registry, NAME, "2", "ada", "wrong colours")
    assert rejected == Decision(verdict=Verdict.PASS, reasons=("digits.x86 version 2 is rejected: wrong colours",))

    refused = promote(registry, NAME, "2", DATA_MD5)
    assert refused.verdict is Verdict.FAIL
    assert refused.reasons[0].startswith("earlier decision: this file was rejected")
    assert registry.champion(NAME) == "1"

    approved = approve(registry, NAME, "2", said("grace", "they were right"), TODAY)
    assert approved.verdict is Verdict.PASS
    assert registry.champion(NAME) == "2"
    tags = registry.version(NAME, "2").tags
    assert [tags[f"slipway.{key}"] for key in ("decision", "approver", "reason")] == [
        "promoted",
        "grace",
        "they were right",
    ]


def test_a_rolled_back_version_does_not_come_back_by_itself(registry: FakeRegistry) -> None:
    for version in ("1", "2"):
        promote(registry, NAME, version, DATA_MD5)
    registry.rollback(NAME)

    assert promote(registry, NAME, "2", DATA_MD5).reasons[0].startswith("earlier decision: this file was rolled back")
    assert registry.champion(NAME) == "1"


def test_a_refused_file_does_not_come_back_as_another_version(registry: FakeRegistry, tmp_path: Path) -> None:
    """Measured again, the same bytes become a version that nothing was decided on."""
    for version in ("1", "2"):
        promote(registry, NAME, version, DATA_MD5)
    registry.rollback(NAME)
    again = register_engine(registry, tmp_path, NAME, b"second", code_revision="later").version

    assert promote(registry, NAME, again, DATA_MD5).reasons[0].startswith("earlier decision: this file was rolled back")
    assert await_approval(registry, NAME, again, DATA_MD5).verdict is Verdict.FAIL
    assert registry.aliases(NAME) == {"champion": "1"}

    assert approve(registry, NAME, again, said("ada", "it was the network"), TODAY).verdict is Verdict.PASS
    later = register_engine(registry, tmp_path, NAME, b"second", code_revision="latest").version
    assert promote(registry, NAME, later, DATA_MD5).verdict is Verdict.PASS


def test_the_champion_cannot_be_rejected(registry: FakeRegistry) -> None:
    promote(registry, NAME, "1", DATA_MD5)

    with pytest.raises(RejectedError, match=r"^digits\.x86 version 1 is the champion; use `slipway rollback`"):
        reject(registry, NAME, "1", "ada", "no")
    assert registry.version(NAME, "1").tags["slipway.decision"] == "promoted"


def test_a_version_waits_as_challenger_and_leaves_the_wait_either_way(registry: FakeRegistry) -> None:
    promote(registry, NAME, "1", DATA_MD5)

    waiting = await_approval(registry, NAME, "2", DATA_MD5)
    assert waiting.verdict is Verdict.PASS
    assert "slipway approve digits.x86 2 --reason" in waiting.reasons[0]
    assert registry.aliases(NAME) == {"champion": "1", "challenger": "2"}

    reject(registry, NAME, "2", "ada", "no")
    assert registry.aliases(NAME) == {"champion": "1"}

    assert await_approval(registry, NAME, "2", DATA_MD5).verdict is Verdict.FAIL
    assert registry.aliases(NAME) == {"champion": "1"}
    approve(registry, NAME, "2", said("ada", "yes"), TODAY)
    assert registry.aliases(NAME) == {"champion": "2", "previous": "1"}


def test_the_champion_does_not_wait_for_approval(registry: FakeRegistry) -> None:
    promote(registry, NAME, "1", DATA_MD5)

    assert await_approval(registry, NAME, "1", DATA_MD5).reasons == ("digits.x86 version 1 is the champion already",)
    assert registry.aliases(NAME) == {"champion": "1"}


def test_a_version_that_is_not_there_is_bad_input(registry: FakeRegistry) -> None:
    with pytest.raises(BadInputError, match="has no version 9"):
        promote(registry, NAME, "9", DATA_MD5)


def test_an_engine_that_is_stale_where_it_would_serve_is_approved_by_nobody(registry: FakeRegistry) -> None:
    promote(registry, NAME, "1", DATA_MD5, HARDWARE)
    moved = HARDWARE.model_copy(update={"cpu": "another"})

    for decision in (
        promote(registry, NAME, "2", DATA_MD5, moved),
        approve(registry, NAME, "2", said("ada", "I want it"), Today(data_md5=DATA_MD5, host=moved)),
        consent(registry, NAME, "2", said("ada", "I want it"), Today(data_md5=DATA_MD5, host=moved)),
        challenge(registry, NAME, "2", DATA_MD5, moved),
    ):
        assert decision.verdict is Verdict.FAIL
        assert decision.reasons[0].startswith("host: the engine is stale: built on cpu (x86_64), this host is another")
    assert registry.aliases(NAME) == {"champion": "1"}


def test_a_promotion_that_was_cut_short_is_finished_by_the_next(registry: FakeRegistry) -> None:
    promote(registry, NAME, "1", DATA_MD5)
    registry.promote(NAME, "2", "ada", "yes")
    registry.set_challenger(NAME, "2")

    assert approve(registry, NAME, "2", said("grace", "again"), TODAY).verdict is Verdict.PASS
    assert registry.aliases(NAME) == {"champion": "2", "previous": "1"}
    assert registry.version(NAME, "2").tags["slipway.approver"] == "ada"


def test_a_challenger_is_one_only_if_it_could_be_promoted(registry: FakeRegistry) -> None:
    promote(registry, NAME, "1", DATA_MD5)

    assert challenge(registry, NAME, "2", "e" * 32 + ".dir").verdict is Verdict.FAIL
    assert registry.aliases(NAME) == {"champion": "1"}
    for _ in range(2):
        assert challenge(registry, NAME, "2", DATA_MD5).reasons == ("digits.x86 version 2 is the challenger",)
    assert registry.aliases(NAME) == {"champion": "1", "challenger": "2"}
    assert challenge(registry, NAME, "1", DATA_MD5).reasons == ("digits.x86 version 1 is the champion already",)


def test_a_consent_is_kept_and_moves_nothing(registry: FakeRegistry) -> None:
    promote(registry, NAME, "1", DATA_MD5)
    challenge(registry, NAME, "2", DATA_MD5)

    for _ in range(2):
        assert consent(registry, NAME, "2", said("ada", "looks fine"), TODAY).verdict is Verdict.PASS

    assert registry.aliases(NAME) == {"champion": "1", "challenger": "2"}
    assert registry.version(NAME, "2").tags["slipway.decision"] == "approved"
    assert promote(registry, NAME, "2", DATA_MD5).verdict is Verdict.PASS
    tags = registry.version(NAME, "2").tags
    assert [tags[f"slipway.{key}"] for key in ("decision", "approver", "reason")] == ["promoted", "ada", "looks fine"]
