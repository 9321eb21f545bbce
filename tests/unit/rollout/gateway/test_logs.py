from __future__ import annotations

import json
from pathlib import Path

import pytest

from slipway.rollout.gateway import logs as gateway_log
from slipway.rollout.gateway.logs import older, rotate_copied, rotate_renamed, shared_since


def line(start_s: float, asked: str = "champion", **changed: object) -> str:
    entry: dict[str, object] = {
        "start_s": start_s,
        "request_id": f"r{start_s:g}",
        "asked": asked,
        "answered": asked,
        "code": 200,
        "upstream_us": 900,
        "total_us": 1000,
        "flags": "-",
    }
    return json.dumps(entry | changed) + "\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


def ids(log: Path, since_s: float) -> list[str | None]:
    return [request.request_id for request in shared_since(log, since_s)]


def test_a_log_that_is_not_there_tells_of_no_request(log: Path) -> None:
    assert shared_since(log, 0) == []
    log.write_text("")
    assert shared_since(log, 0) == []


def test_requests_are_told_from_the_rotated_part_on(log: Path) -> None:
    older(log).write_text(line(1) + line(2))
    log.write_text(line(3) + line(4))

    assert ids(log, 0) == ["r1", "r2", "r3", "r4"]
    assert ids(log, 2) == ["r2", "r3", "r4"]
    assert ids(log, 4.0009) == ["r4"]  # the log tells whole milliseconds


@pytest.mark.parametrize("block", [1, 7, 200, 2**16])
def test_lines_are_whole_however_the_file_is_read(log: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(gateway_log, "BLOCK_BYTES", block)
    log.write_text("".join(line(number) for number in range(1, 20)))

    assert ids(log, 5) == [f"r{number}" for number in range(5, 20)]


def test_a_line_that_is_still_written_or_cut_is_left_out(log: Path) -> None:
    log.write_text(line(1) + '{"start_s": 2, "reque' + "\n" + line(3) + line(4)[:20])

    assert ids(log, 0) == ["r1", "r3"]


def test_a_request_without_an_answer_is_told_as_such(log: Path) -> None:
    log.write_text(line(1, "challenger", answered=None, upstream_us=None, code=503, flags="UH", later="key"))

    (request,) = shared_since(log, 0)
    assert (request.asked, request.answered, request.upstream_us, request.code) == ("challenger", None, None, 503)


def test_a_long_request_among_short_ones_ends_the_search_no_earlier_than_it_may(log: Path) -> None:
    log.write_text(line(100) + line(101) + line(0) + line(200))  # the third took 101 s
    assert ids(log, 100) == ["r100", "r101", "r200"]


def test_nothing_is_told_twice_where_a_log_is_renamed_while_it_is_read(log: Path) -> None:
    log.write_text(line(1))
    older(log).hardlink_to(log)

    assert ids(log, 0) == ["r1"]


def test_a_log_is_renamed_once_it_is_too_long_and_only_then(log: Path) -> None:
    reopened: list[int] = []
    rotate_renamed(log, lambda: reopened.append(1), max_bytes=10)
    log.write_text("12345")
    rotate_renamed(log, lambda: reopened.append(1), max_bytes=10)
    assert (log.read_text(), reopened) == ("12345", [])

    log.write_text("x" * 11)
    rotate_renamed(log, lambda: reopened.append(1), max_bytes=10)
    assert (older(log).read_text(), log.exists(), reopened) == ("x" * 11, False, [1])

    rotate_renamed(log, lambda: reopened.append(2), max_bytes=10)  # the first word was not heard
    log.write_text("new")
    rotate_renamed(log, lambda: reopened.append(3), max_bytes=10)
    assert reopened == [1, 2]


def test_a_full_disk_costs_old_lines_and_not_the_room_for_new_ones(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Path, into: Path) -> None:
        into.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gateway_log.shutil, "copyfile", full)
    log.write_text("x" * 11)
    rotate_copied(log, max_bytes=10)

    assert log.read_text() == ""
    assert not older(log).exists()


def test_a_log_that_its_writer_keeps_open_is_copied_and_emptied(log: Path) -> None:
    with log.open("ab", buffering=0) as writer:
        writer.write(b"x" * 11)
        rotate_copied(log, max_bytes=10)
        writer.write(b"after")

    assert older(log).read_bytes() == b"x" * 11
    assert log.read_bytes() == b"after"  # and no hole before it
