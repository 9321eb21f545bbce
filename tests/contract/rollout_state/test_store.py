"""What every store of rollouts does, whichever database keeps them."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from slipway.errors import BadInputError
from slipway.records import Phase, Rollout
from slipway.rollout.store.rollouts import RolloutStore, rollout_jsonl
from tests.contract.rollout_state.commits import WAIT_SECONDS, held_before_commit
from tests.unit.rollout.states import NAME, READING, progressing, rollout


def test_every_state_is_kept_and_the_newest_is_found(store: RolloutStore, url: str) -> None:
    states = [rollout(), progressing(1.0), progressing(5.0, readings=(READING,))]
    for state in states:
        store.save(state)

    for reader in (store, RolloutStore(url)):
        assert reader.latest(NAME) == reader.find("r1") == states[-1]
        assert reader.history("r1") == states
    times = [state.saved_s for state in store.states("r1")]
    assert times == sorted(times)


def test_the_same_state_again_changes_nothing(store: RolloutStore) -> None:
    for _ in range(3):
        store.save(progressing())

    assert store.history("r1") == [progressing()]


def test_a_new_rollout_is_the_latest_of_its_name_whatever_becomes_of_an_old_one(store: RolloutStore) -> None:
    second, other = rollout(rollout_id="r2"), rollout(rollout_id="r3", name="other.x86")
    for state in (rollout(), second, other, rollout(phase=Phase.ROLLED_BACK)):
        store.save(state)

    assert store.latest(NAME) == second
    assert store.all_latest() == [second, other]


def test_nothing_is_found_where_nothing_is(store: RolloutStore) -> None:
    assert store.latest(NAME) is None
    assert store.all_latest() == []
    assert store.heard(NAME) is None
    assert store.events("r1") == []


@pytest.mark.parametrize("ask", [RolloutStore.find, RolloutStore.states, rollout_jsonl])
def test_an_unknown_rollout_is_bad_input_that_names_the_nearest(ask: object, store: RolloutStore) -> None:
    store.save(rollout(rollout_id="abcdef"))
    assert callable(ask)

    with pytest.raises(BadInputError, match="there is no rollout 'abcdeg', did you mean 'abcdef'"):
        ask(store, "abcdeg")


def test_starters_at_the_same_time_make_the_tables_once(url: str) -> None:
    together = threading.Barrier(8)

    def start(number: int) -> None:
        together.wait()
        RolloutStore(url).save(rollout(rollout_id=f"r{number}", name=f"model-{number}.x86"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(start, range(8)))

    assert len(RolloutStore(url).all_latest()) == 8


def test_writers_at_the_same_time_lose_nothing(url: str) -> None:
    def write(number: int) -> None:
        store, name = RolloutStore(url), f"model-{number}.x86"
        for step in range(20):
            store.save(rollout(rollout_id=name, name=name, step=step))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))

    store = RolloutStore(url)
    for number in range(4):
        assert [state.step for state in store.history(f"model-{number}.x86")] == list(range(20))


def test_an_event_is_kept_once_for_each_key(store: RolloutStore) -> None:
    asked = [("dead", "silent", "1"), ("dead", "again", "1"), ("dead", "silent", "2"), ("other", "text", "")]

    assert [store.record("r1", kind, text, key) for kind, text, key in asked] == [True, False, True, True]

    found = store.events("r1")
    assert [(event.kind, event.text, event.key) for event in found] == [asked[0], asked[2], asked[3]]  # type: ignore[comparison-overlap]
    assert store.events("r2") == []


def test_labels_come_back_in_the_order_in_which_they_came(store: RolloutStore) -> None:
    assert store.add_labels(NAME, {"a": (1,), "b": (2, 3)}) == 2
    assert store.add_labels(NAME, {"b": (2, 3), "c": (4,)}) == 1, "a label that is known does no harm"
    assert store.add_labels("other.x86", {"a": (7,)}) == 1

    found = store.labels_after(NAME, 0, 0.0)
    assert [(label.request_id, label.classes) for label in found] == [("a", (1,)), ("b", (2, 3)), ("c", (4,))]
    assert store.labels_after(NAME, found[1].number, 0.0) == found[2:]
    assert store.labels_after(NAME, 0, found[-1].at_s + 60) == []


def test_a_label_that_contradicts_a_known_one_is_refused_with_all_that_came_with_it(store: RolloutStore) -> None:
    store.add_labels(NAME, {f"r{number}": (1,) for number in range(1000)})

    with pytest.raises(BadInputError, match=r"'r1' is \[1\], not \[2\].* and 1 more; nothing was imported"):
        store.add_labels(NAME, {"new": (5,)} | {f"r{number}": (2,) for number in (999, 1, 600, 3)})

    assert len(store.labels_after(NAME, 0, 0.0)) == 1000


def test_a_reader_misses_no_label_of_importers_at_the_same_time(url: str) -> None:
    """A number that is given out first may be committed last: the reader would have passed it by."""
    slow, quick, reader = RolloutStore(url), RolloutStore(url), RolloutStore(url)
    assert reader.labels_after(NAME, 0, 0.0) == quick.labels_after(NAME, 0, 0.0) == []
    with ThreadPoolExecutor(2) as pool:
        with held_before_commit(slow) as reached:
            importing = [pool.submit(slow.add_labels, NAME, {"a": (1,)})]
            assert reached.wait(WAIT_SECONDS)
            importing.append(pool.submit(quick.add_labels, NAME, {"b": (2,)}))
            wait(importing[1:], timeout=2)  # which it should not be done in
            first = reader.labels_after(NAME, 0, 0.0)
        assert [done.result() for done in importing] == [1, 1]
    rest = reader.labels_after(NAME, first[-1].number if first else 0, 0.0)

    assert [label.request_id for label in first + rest] == ["a", "b"]


def test_a_rollout_is_told_as_lines_of_json_that_can_be_plotted(store: RolloutStore) -> None:
    for state in (rollout(), progressing(5.0, readings=(READING,))):
        store.save(state)

    first, second = map(json.loads, rollout_jsonl(store, "r1").splitlines())

    assert first["saved_s"] <= second["saved_s"]
    assert (first["phase"], second["phase"], second["share_percent"]) == ("Pending", "Progressing", 5.0)
    assert second["policy"]["steps"] == [1, 5, 25, 50]
    assert second["readings"][0]["figures"] == {"challenger_n": 12.0, "upper": None}


def test_what_is_saved_survives_unusual_text(store: RolloutStore) -> None:
    odd: Rollout = rollout(reasons=('it\'s 100% "odd" \\ ☃ \n:name ?', "x" * 100_000))

    store.save(odd)

    assert store.latest(NAME) == odd
