from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slipway.decisions.canary import Seen
from slipway.decisions.sudden_failures import ANSWERED, CHAMPION_FAILED, FAILED
from slipway.errors import InfrastructureError
from slipway.records import Phase, Rollout
from slipway.rollout.observing.log_tail import LogTail
from slipway.rollout.observing.observer import Observer
from slipway.rollout.store.rollouts import Label
from tests.unit.rollout.access_logs import FakeLabels, Written, append
from tests.unit.rollout.states import CHALLENGER, CHAMPION, STARTED_S, policy_json, progressing, rollout

MINUTE = 60.0


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path)


@pytest.fixture
def labels() -> FakeLabels:
    return FakeLabels()


class Look:
    """An observer of one rollout, asked at a time since it began."""

    def __init__(self, state: Rollout, written: Written, labels: Any) -> None:
        self.state = state
        self.observer = Observer(state, written.logs, labels)

    def __call__(self, at_s: float = 10.0) -> Seen:
        return self.observer.observe(self.state, STARTED_S + at_s)


@pytest.fixture
def look(written: Written, labels: FakeLabels) -> Iterator[Look]:
    look = Look(progressing(policy_json=policy_json(label_minutes=10)), written, labels)
    with look.observer:
        yield look


def alternate(written: Written, count: int, champion_ms: float = 1.0, challenger_ms: float = 2.0) -> None:
    """So many requests to each arm in turn, and one more to the champion that closes the last turn."""
    for number in range(count):
        written.routed("champion", number, champion_ms)
        written.routed("challenger", number, challenger_ms)
    written.routed("champion", count, champion_ms)


def test_nothing_is_seen_before_a_log_is_there_and_all_once_it_is(look: Look, written: Written) -> None:
    seen = look()
    assert (len(seen.champion_ms), len(seen.challenger_ms), seen.challenger_errors) == (0, 0, 0)
    assert look.observer.notes == ()

    alternate(written, 3)
    seen = look()
    assert seen.challenger_ms.tolist() == [2.0, 2.0, 2.0]
    assert seen.champion_ms.tolist() == [1.0, 1.0], "the first was before the challenger took any"


def test_each_look_adds_what_is_new_and_leaves_the_earlier_one_as_it_was(look: Look, written: Written) -> None:
    alternate(written, 2)
    first = look()
    alternate(written, 5000, challenger_ms=3.0)
    second = look()

    assert first.challenger_ms.tolist() == [2.0, 2.0]
    assert second.challenger_ms.tolist() == [2.0, 2.0] + 5000 * [3.0]
    with pytest.raises(ValueError, match="read-only"):
        second.challenger_ms[0] = 1.0


def test_a_line_counts_once_it_is_whole(look: Look, written: Written) -> None:
    alternate(written, 1)
    look()
    written.routed("challenger", ms=7.0)
    written.routed("champion")
    whole = written.logs.splitter.read_bytes()
    written.logs.splitter.write_bytes(whole[:-10])

    assert look().challenger_ms.tolist() == [2.0]
    with written.logs.splitter.open("ab") as log:
        log.write(whole[-10:])
    assert look().challenger_ms.tolist() == [2.0, 7.0]
    assert look.observer.notes == ()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\xff\xfe",
        b"{",
        b"[]",
        b"7",
        b"null",
        b'{"start_s": 1}',
        b'{"start_s": "now", "asked": "challenger", "answered": "challenger", "code": 200, "upstream_us": 1}',
        b'{"start_s": 1, "asked": "challenger", "answered": "challenger", "code": "200", "upstream_us": 1}',
        b'{"start_s": 1, "asked": "challenger", "answered": "challenger", "code": 200, "upstream_us": -1}',
        b'{"time": 1, "digest": 7, "request_id": "a", "top1": [1]}',
        b'{"time": 1, "digest": "d", "request_id": 7, "top1": [1]}',
        b'{"time": 1, "digest": "d", "request_id": "a", "top1": ["1"]}',
        b'{"time": 1, "digest": "d", "request_id": "a", "top1": 1.5}',
        b"x" * 100_000,
        b"y" * 3_000_000,
    ],
    ids=lambda garbage: garbage[:40].decode(errors="replace"),
)
def test_a_line_that_is_none_is_left_out_and_told(garbage: bytes, look: Look, written: Written) -> None:
    alternate(written, 1)
    written.pair("a", 1, 1)
    for log in (written.logs.splitter, written.logs.champion):
        with log.open("ab") as stream:
            stream.write(garbage + b"\n")
    alternate(written, 2)
    written.pair("b", 1, 2)

    seen = look()

    assert len(seen.challenger_ms) == 3
    assert seen.disagreed is not None
    assert seen.disagreed.tolist() == [False, True]
    assert f"1 unreadable lines in {written.logs.splitter}" in look.observer.notes or b'"time"' in garbage
    assert f"1 unreadable lines in {written.logs.champion}" in look.observer.notes or b'"asked"' in garbage


def test_what_came_before_the_rollout_does_not_count(look: Look, written: Written) -> None:
    for arm in ("champion", "challenger", "champion"):
        written.routed(arm, -1.0)
    for arm in ("champion", "challenger"):
        written.served(arm, "a", 1, at_s=-1.0)

    seen = look()

    assert len(seen.challenger_ms) == 0
    assert seen.disagreed is not None
    assert len(seen.disagreed) == 0


def test_answers_of_other_engines_do_not_count(look: Look, written: Written) -> None:
    """As of the challenger before this one, whose server wrote to the same file."""
    written.served("champion", "a", 1)
    written.served("challenger", "a", 2, digest="e" * 64)
    written.served("challenger", "b", 2)
    written.served("champion", "b", 2, digest="e" * 64)

    assert look().disagreed is not None
    assert look().disagreed.tolist() == []  # type: ignore[union-attr]


def test_the_challenger_errs_where_it_fails_or_the_champion_has_to_answer(look: Look, written: Written) -> None:
    for code in (500, 503, 504):
        written.routed("challenger", code=code)
        written.routed("challenger", code=code, answered=None, ms=None)
    written.routed("challenger", answered="champion")
    written.routed("challenger", answered="champion", code=400)
    for code in (400, 404, 413, 429):  # perhaps the client's
        written.routed("challenger", code=code)
        written.routed("challenger", code=code, answered=None, ms=None)
    written.routed("challenger", code=0, answered=None, ms=None, flags="DC")

    seen = look()

    assert (seen.challenger_errors, seen.champion_errors, len(seen.challenger_ms)) == (8, 0, 0)
    assert (seen.challenger_refused, seen.champion_refused) == (8, 0)
    assert seen.outcomes.tolist() == 8 * [FAILED]
    assert look.observer.notes == ("1 clients of the challenger left before the answer",)


def test_the_champions_errors_count_while_both_take_traffic(look: Look, written: Written) -> None:
    written.routed("champion", code=500)
    alternate(written, 1)
    written.routed("champion", code=500)
    written.routed("champion", code=404)
    assert (look().champion_errors, look().champion_refused) == (0, 0)

    written.routed("challenger")
    assert (look().champion_errors, look().champion_refused) == (1, 1)
    assert look().outcomes.tolist() == [CHAMPION_FAILED, ANSWERED, CHAMPION_FAILED, ANSWERED]


def test_requests_that_no_share_was_applied_to_are_neither_arms(look: Look, written: Written) -> None:
    alternate(written, 1)
    for asked in (None, "-", "shadow", 7):
        written.routed("challenger", asked=asked)
    written.routed("champion")

    assert look().challenger_ms.tolist() == [2.0]
    assert look.observer.notes == ()


def test_latencies_of_a_time_in_which_one_arm_took_no_traffic_are_not_compared(look: Look, written: Written) -> None:
    """As while the dead man had returned it all: at 1% a run of 2,000 for the champion has a chance of e^-20."""
    alternate(written, 1, champion_ms=1.0)
    for _ in range(2500):
        written.routed("champion", ms=9.0)
    alternate(written, 1, champion_ms=1.0)
    for _ in range(100):
        written.routed("challenger", ms=9.0)
    alternate(written, 1)

    seen = look()

    assert 9.0 not in seen.champion_ms
    assert 9.0 not in seen.challenger_ms
    assert seen.champion_ms.tolist() == [1.0] * 2
    assert seen.challenger_ms.tolist() == [2.0] * 3


def test_a_run_as_long_as_a_small_share_makes_it_counts(look: Look, written: Written) -> None:
    alternate(written, 1)
    for _ in range(1500):
        written.routed("champion", ms=9.0)
    written.routed("challenger")

    assert look().champion_ms.tolist() == [1.0] + 1500 * [9.0]


def test_answers_are_compared_by_the_requests_id_whichever_comes_first(look: Look, written: Written) -> None:
    written.served("champion", "a", 1)
    written.served("challenger", "b", 2)
    look()
    written.served("challenger", "a", 1, at_s=2)
    written.served("champion", "b", 7, at_s=3)
    written.served("champion", "unmirrored", 1)

    assert look().disagreed.tolist() == [False, True]  # type: ignore[union-attr]


def test_each_example_of_a_request_is_compared(look: Look, written: Written, labels: FakeLabels) -> None:
    written.served("champion", "a", 1, 2, 3, 4)
    written.served("challenger", "a", 1, 5, 3, 6)
    labels.tell("a", 1, 5, 0, 4)

    seen = look()

    assert seen.disagreed.tolist() == [False, True, False, True]  # type: ignore[union-attr]
    assert seen.gained.tolist() == [0, 1, 0, -1]  # type: ignore[union-attr]
    assert seen.disagreed_labelled == 2


def test_a_repeated_request_is_compared_once(look: Look, written: Written, labels: FakeLabels) -> None:
    for _ in range(3):
        written.pair("a", 1, 2)
        written.served("champion", "a", 1)
    labels.tell("a", 2)
    look()
    written.pair("a", 1, 2)
    written.pair("a", 2, 1)
    labels.tell("a", 2)

    seen = look()

    assert seen.disagreed.tolist() == [True]  # type: ignore[union-attr]
    assert seen.gained.tolist() == [1]  # type: ignore[union-attr]
    assert look.observer.notes == ()


def test_an_id_that_a_client_gave_to_several_requests_is_left_out_and_told(look: Look, written: Written) -> None:
    written.served("champion", "same", 1)
    written.served("champion", "same", 2)
    written.served("challenger", "same", 2)
    written.served("champion", "lengths", 1, 2)
    written.served("challenger", "lengths", 1)

    assert look().disagreed.tolist() == []  # type: ignore[union-attr]
    assert look.observer.notes == ("2 request ids whose answers cannot belong together",)


def test_answers_without_classes_or_id_are_not_compared(look: Look, written: Written) -> None:
    """As of a regression; a request without an id cannot be found again."""
    written.served("champion", "a", 1, top1=None)
    written.served("challenger", "a", 1, top1=None)
    written.served("champion", None, 1)
    written.served("challenger", None, 2)

    assert look().disagreed.tolist() == []  # type: ignore[union-attr]
    assert look.observer.notes == ("2 answers without the classes that could be compared",)


def test_without_a_shadow_nothing_is_compared(written: Written, labels: FakeLabels) -> None:
    written.pair("a", 1, 2)
    look = Look(progressing(policy_json=policy_json(shadow=False)), written, labels)
    with look.observer:
        seen = look()

    assert (seen.disagreed, seen.gained, seen.disagreed_labelled) == (None, None, None)


@pytest.mark.parametrize(
    ("champion", "challenger", "label", "gained"),
    [(1, 1, 1, 0), (1, 1, 2, 0), (1, 2, 2, 1), (1, 2, 1, -1), (1, 2, 3, 0)],
)
def test_a_label_tells_what_the_challenger_gains(
    champion: int, challenger: int, label: int, gained: int, look: Look, written: Written, labels: FakeLabels
) -> None:
    written.pair("a", champion, challenger)
    assert look().gained is None, "no label has come"
    labels.tell("a", label)

    seen = look()

    assert seen.gained is not None
    assert (seen.gained.tolist(), seen.labels_missing) == ([gained], 0)
    assert look().gained.tolist() == [gained]  # type: ignore[union-attr]


def test_a_label_may_come_before_the_log_tells_of_the_answers(look: Look, written: Written, labels: FakeLabels) -> None:
    labels.tell("a", 2)
    labels.tell("unmirrored", 2)
    assert look().gained.tolist() == []  # type: ignore[union-attr]
    written.pair("a", 1, 2)

    assert look().gained.tolist() == [1]  # type: ignore[union-attr]


def test_an_overdue_label_is_missing_and_never_counts(look: Look, written: Written, labels: FakeLabels) -> None:
    written.pair("late", 1, 1, at_s=0.0)
    written.served("champion", "several", 1, 2, at_s=0.0)
    written.served("challenger", "several", 1, 2, at_s=0.0)
    written.pair("in time", 1, 1, at_s=0.0)
    labels.tell("in time", 1, at_s=10 * MINUTE)
    assert look(10 * MINUTE).labels_missing == 0
    assert look(10 * MINUTE + 1).labels_missing == 3, "one for each example"
    labels.tell("late", 1, at_s=10 * MINUTE + 1)

    seen = look(11 * MINUTE)

    assert seen.gained.tolist() == [0]  # type: ignore[union-attr]
    assert seen.labels_missing == 3


def test_a_label_of_another_number_of_examples_is_missing_and_told(
    look: Look, written: Written, labels: FakeLabels
) -> None:
    written.pair("a", 1, 1)
    labels.tell("a", 1, 2)
    assert look().gained.tolist() == []  # type: ignore[union-attr]
    assert look.observer.notes == ("1 labels of another number of examples than the answers",)

    assert look(11 * MINUTE).labels_missing == 1


def test_a_store_of_labels_that_is_out_of_reach_hides_no_latency(written: Written) -> None:
    class Down(FakeLabels):
        down = True

        def labels_after(self, name: str, number: int, since_s: float) -> list[Label]:
            if self.down:
                raise InfrastructureError("down")
            return super().labels_after(name, number, since_s)

    labels = Down()
    labels.tell("a", 1)
    written.pair("a", 1, 2)
    alternate(written, 2)
    look = Look(progressing(), written, labels)
    with look.observer:
        assert len(look().challenger_ms) == 2
        assert look.observer.notes == ("the store of labels is out of reach",)
        labels.down = False
        assert look().gained.tolist() == [-1]  # type: ignore[union-attr]
        assert look.observer.notes == ()


def test_after_the_promotion_only_the_challengers_engine_counts_by_whichever_server_has_it(
    written: Written, labels: FakeLabels
) -> None:
    alternate(written, 2)
    promoted = rollout(phase=Phase.PROMOTED, share_percent=100, phase_since_s=STARTED_S + 50)
    written.routed("champion", 51, 9.0)  # still the old engine
    for _ in range(100):
        written.routed("challenger", 52, 3.0)
    written.routed("challenger", 53, code=500)
    written.served("champion", "x", 1, at_s=60, digest=CHALLENGER)  # its server has opened the new champion
    written.routed("champion", 59, 9.0)
    written.routed("champion", 61, 4.0)
    written.routed("champion", 62, code=500)

    look = Look(promoted, written, labels)
    with look.observer:
        seen = look(100)

    assert seen.baked_ms.tolist() == 100 * [3.0] + [4.0]
    assert (seen.champion_ms.tolist(), seen.challenger_ms.tolist()) == ([1.0], [2.0, 2.0])
    assert (seen.challenger_errors, seen.champion_errors) == (2, 0)


def everything(seen: Seen) -> dict[str, Any]:
    arrays = ("champion_ms", "challenger_ms", "disagreed", "gained", "baked_ms", "outcomes")
    counts = ("champion_errors", "challenger_errors", "labels_missing", "disagreed_labelled", "challenger_refused")
    return {name: getattr(seen, name).tolist() for name in arrays} | {name: getattr(seen, name) for name in counts}


def test_a_controller_that_resumes_comes_to_the_same(look: Look, written: Written, labels: FakeLabels) -> None:
    """However often the first one looked, and with the labels on all sides of their time."""
    for number in range(60):
        at_s = number * 30.0
        written.routed("champion", at_s, 1.0 + number)
        written.routed("challenger", at_s, 2.0 + number, code=500 if number % 7 == 0 else 200)
        written.pair(f"r{number}", number % 3, number % 4, at_s)
        if number >= 30 and number % 2:
            labels.tell(f"r{number - 15}", number % 3, at_s=at_s)  # within the ten minutes
        if number >= 30 and not number % 2:
            labels.tell(f"r{number - 30}", number % 3, at_s=at_s)  # after them
        look(at_s)
    seen = look(1800)

    again = Look(look.state, written, labels)
    with again.observer:
        assert everything(again(1800)) == everything(seen)
    assert seen.labels_missing > 0
    assert len(seen.gained) == 15  # type: ignore[arg-type]


def rename(log: Path) -> None:
    log.replace(log.with_name(f"{log.name}.1"))


def copy_and_empty(log: Path) -> None:
    shutil.copyfile(log, log.with_name(f"{log.name}.1"))
    with log.open("r+b") as stream:
        stream.truncate(0)


@pytest.mark.parametrize("rotate", [rename, copy_and_empty])
def test_rotation_loses_nothing_and_repeats_nothing(rotate: Any, look: Look, written: Written) -> None:
    for turn in range(4):
        for number in range(30):
            written.pair(f"{turn}-{number}", number, number)
            if number == 10:
                look()
        rotate(written.logs.champion)
        if turn % 2:
            look()

    assert len(look().disagreed) == 120  # type: ignore[arg-type]
    assert look.observer.notes == ()


def test_a_writer_that_still_holds_the_renamed_file_is_read_to_its_end(look: Look, written: Written) -> None:
    log = written.logs.champion
    written.pair("a", 1, 1)
    with log.open("ab") as held:
        look()
        rename(log)
        line = json.loads(log.with_name(f"{log.name}.1").read_text())
        held.write(json.dumps(line | {"request_id": "b"}).encode() + b"\n")
        held.flush()
        log.touch()  # the new file is there, and nobody writes to it yet
        written.served("challenger", "b", 1)
        assert len(look().disagreed) == 2  # type: ignore[arg-type]
        held.write(json.dumps(line | {"request_id": "c"}).encode() + b"\n")
    written.pair("d", 1, 1)
    written.served("challenger", "c", 1)

    assert len(look().disagreed) == 4  # type: ignore[arg-type]


def test_what_is_written_between_the_last_read_and_the_rotation_is_read(
    look: Look, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    written.pair("a", 1, 1)
    looked_for = LogTail._has_successor

    def rotate_meanwhile(tail: LogTail) -> bool:
        if tail.path == written.logs.champion and not rotated:
            rotated.append(True)
            written.pair("b", 1, 1)
            rename(written.logs.champion)
            written.pair("c", 1, 1)
        return looked_for(tail)

    rotated: list[bool] = []
    monkeypatch.setattr(LogTail, "_has_successor", rotate_meanwhile)

    assert len(look().disagreed) == 3  # type: ignore[arg-type]


def test_a_log_that_was_emptied_and_has_grown_as_long_is_read_anew(look: Look, written: Written) -> None:
    written.pair("a", 1, 1)
    look()
    length = written.logs.champion.stat().st_size
    written.logs.champion.write_bytes(b"")
    written.pair("b", 1, 1)
    written.served("champion", "c", 1)
    written.served("challenger", "c", 1)
    assert written.logs.champion.stat().st_size > length

    assert len(look().disagreed) == 3  # type: ignore[arg-type]


def test_a_controller_that_resumes_reads_what_was_rotated_since_the_rollout_began(
    written: Written, labels: FakeLabels
) -> None:
    for turn in range(3):
        written.pair(str(turn), 1, 2)
        if turn < 2:
            log = written.logs.champion
            if log.with_name(f"{log.name}.1").exists():
                log.with_name(f"{log.name}.1").replace(log.with_name(f"{log.name}.2"))
            rename(log)
    written.logs.champion.with_name("champion.log.gz").write_bytes(b"\x00")

    look = Look(progressing(), written, labels)
    with look.observer:
        assert len(look().disagreed) == 3  # type: ignore[arg-type]
        assert look.observer.notes == ()


def test_a_log_that_cannot_be_read_is_told(look: Look, written: Written) -> None:
    written.logs.splitter.mkdir()

    with pytest.raises(InfrastructureError, match=r"cannot read the log .*access\.log: Is a directory"):
        look()


def test_the_two_engines_may_be_the_same(written: Written, labels: FakeLabels) -> None:
    written.pair("a", 1, 1)
    append(written.logs.challenger, json.loads(written.logs.champion.read_text()) | {"request_id": "b"})
    written.served("champion", "b", 1)
    state = progressing()
    look = Look(state.model_copy(update={"challenger": state.champion}), written, labels)
    with look.observer:
        assert len(look().disagreed) == 1  # type: ignore[arg-type]
    assert state.champion.digest == CHAMPION
