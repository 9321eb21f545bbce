"""Who decided, as far as MLflow and the caller tell; and what a deployment holds the word against."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import promote as flows
from slipway.errors import BadInputError
from slipway.steps.promote import Today
from slipway.stores.objects import ObjectStore
from slipway.wiring import Workshop
from tasks.promote import decide
from tests.fakes.registry import FakeRegistry
from tests.unit.steps.registered import register_engine

NAME = "digits.x86"
PARAMS = """model: models:/{model}/1
data: {{test: data/test}}
targets: {{x86: {{engines: [torch], work_pool: far}}}}
approval: {{required: true, persons: 2}}
"""


@pytest.mark.parametrize(
    ("user", "person", "deployed", "told", "authenticated"),
    [
        ("ann", "ann", False, "ann", True),
        ("ann", None, False, "ann", True),
        ("ann", "carl", False, "ann (for carl, claimed)", False),
        ("slipway", "ann", True, "slipway (for ann, claimed)", False),
        ("slipway", None, True, "slipway", False),
        ("slipway", "slipway", True, "slipway", False),
        (None, "ann", False, "ann", False),
        (None, "ann", True, "ann", False),
    ],
)
def test_whom_mlflow_knows_has_decided_and_another_name_is_a_claim(
    user: str | None, person: str | None, deployed: bool, told: str, authenticated: bool
) -> None:
    word = flows.word_of(user, person, "why", deployed=deployed)
    assert (word.person, word.reason, word.authenticated) == (told, "why", authenticated)


def test_where_nobody_is_known_somebody_must_be_named() -> None:
    with pytest.raises(BadInputError, match="set the parameter person"):
        flows.word_of(None, None, "why", deployed=True)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeRegistry:
    """A registry with two versions, in whose project a deployment runs for the account ``slipway``."""
    monkeypatch.chdir(tmp_path)
    registry = FakeRegistry()
    registry.authenticated = "slipway"
    shop: Any = Workshop(root=tmp_path, objects=ObjectStore(tmp_path / "objects"), registry=registry)  # type: ignore[arg-type]
    for content in (b"one", b"two"):
        register_engine(registry, tmp_path, NAME, content)
    monkeypatch.setattr(flows, "workshop", lambda: shop)
    monkeypatch.setattr(flows, "decide", decide.fn)
    monkeypatch.setattr(flows, "runtime", SimpleNamespace(deployment=SimpleNamespace(id="d1")))
    return registry


def test_a_deployment_is_named_after_its_verdict_and_tells_the_claim(registry: FakeRegistry, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(PARAMS.format(model="faces"))

    state = flows.promote.fn(NAME, "2", "approve", "looks fine", "ann")

    assert (state.name, state.type) == ("PASS", "COMPLETED")
    assert state.message == "digits.x86 version 2 is the champion now"
    assert registry.version(NAME, "2").tags["slipway.approver"] == "slipway (for ann, claimed)"


def test_a_deployment_asks_for_what_its_project_asks(registry: FakeRegistry, tmp_path: Path) -> None:
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "digits.yaml").write_text(PARAMS.format(model="digits"))

    for person in ("ann", "carl", None):
        state = flows.promote.fn(NAME, "2", "approve", "looks fine", person)
        assert state.name == "FAIL"
        assert "2 persons must approve, and nobody has checked that slipway" in str(state.message)
    assert registry.champion(NAME) is None


def test_whoever_starts_a_deployment_does_not_choose_what_the_word_is_held_against(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    (tmp_path / "params.yaml").write_text(PARAMS.format(model="digits"))

    with pytest.raises(BadInputError, match="leave out the parameter today"):
        flows.promote.fn(NAME, "2", "approve", "looks fine", "ann", Today())
    assert registry.champion(NAME) is None


def test_a_deployment_may_reject(registry: FakeRegistry) -> None:
    assert flows.promote.fn(NAME, "2", "reject", "wrong colours", "ann").name == "PASS"
    tags = registry.version(NAME, "2").tags
    assert (tags["slipway.decision"], tags["slipway.approver"]) == ("rejected", "slipway (for ann, claimed)")


@pytest.mark.usefixtures("registry")
def test_a_deployment_without_a_reason_is_bad_input() -> None:
    with pytest.raises(BadInputError, match="without a reason"):
        flows.promote.fn(NAME, "2", "approve", " ", "ann")
