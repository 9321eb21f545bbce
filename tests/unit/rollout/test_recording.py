from __future__ import annotations

import json
from pathlib import Path

import pytest

from slipway.records import Phase
from slipway.rollout.recording import BRIEF_CHARACTERS, record_course, tag_version
from slipway.rollout.store.rollouts import RolloutStore
from tests.fakes.registry import FakeRegistry
from tests.unit.rollout.rollouts import NAME, looked, rollout
from tests.unit.steps.registered import register_engine


@pytest.fixture
def registry(tmp_path: Path) -> FakeRegistry:
    registry = FakeRegistry()
    for content in (b"one", b"two"):
        register_engine(registry, tmp_path, NAME, content)
    return registry


@pytest.fixture
def store(tmp_path: Path) -> RolloutStore:
    return RolloutStore(f"sqlite:///{tmp_path}/rollouts.db")


def test_a_decision_becomes_tags_of_the_challenger_s_version(registry: FakeRegistry) -> None:
    tag_version(registry, rollout(reasons=("latency: " + "x" * 9_999,)))

    tags = registry.version(NAME, "2").tags
    told = [tags[f"slipway.rollout{key}"] for key in ("", "_phase", "_step", "_share")]
    assert told == ["r1", "Progressing", "0", "1%"]
    assert len(tags["slipway.rollout_reasons"]) == BRIEF_CHARACTERS
    assert "slipway.rollout" not in registry.version(NAME, "1").tags


def test_the_whole_course_is_kept_with_its_plot(registry: FakeRegistry, store: RolloutStore) -> None:
    states = [looked(10), looked(300), looked(300, phase=Phase.PROMOTED, share_percent=100.0)]
    for state in states:
        store.save(state)

    record_course(registry, store, states[-1])

    kept = registry.rollouts["r1"]
    assert set(kept) == {"rollout.jsonl", "rollout.png", "rollout.html"}
    lines = [json.loads(line) for line in kept["rollout.jsonl"].splitlines()]
    assert [line["phase"] for line in lines] == ["Progressing", "Progressing", "Promoted"]
    assert lines[-1]["readings"][0]["figures"]["challenger_ms"] == 10.5


def test_of_a_rollout_without_traffic_the_course_is_kept_alone(registry: FakeRegistry, store: RolloutStore) -> None:
    ended = rollout(phase=Phase.INCONCLUSIVE)
    store.save(ended)

    record_course(registry, store, ended)

    assert set(registry.rollouts["r1"]) == {"rollout.jsonl"}
