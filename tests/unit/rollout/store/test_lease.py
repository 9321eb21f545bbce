from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from slipway.errors import InfrastructureError
from slipway.rollout.store import lease as lease_module
from slipway.rollout.store.lease import LeaseHeldError, has_ended, this_process
from slipway.rollout.store.rollouts import RolloutStore
from tests.unit.rollout.states import NAME, rollout

ELSEWHERE = "another-host 1 1 boot:1"


class Clock:
    """A clock that is set by hand; whoever sleeps lets it go on."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += max(seconds, 0.001)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(lease_module.time, "sleep", clock.sleep)
    return clock


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "rollouts.db"


def test_a_silent_holder_of_another_host_is_waited_for_until_its_lease_runs_out(place: Path, clock: Clock) -> None:
    with RolloutStore(place, clock).lease(NAME, ELSEWHERE, 30):
        clock.now_s += 10
        with RolloutStore(place, clock).lease(NAME, this_process(), 30):
            assert clock.now_s == pytest.approx(1030, abs=0.2)


def test_a_holder_that_renews_is_not_waited_for(place: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    with RolloutStore(place, clock).lease(NAME, ELSEWHERE, 30) as held:

        def sleep_beside_the_holder(seconds: float) -> None:
            clock.sleep(seconds)
            held.renew()

        monkeypatch.setattr(lease_module.time, "sleep", sleep_beside_the_holder)
        with (
            pytest.raises(LeaseHeldError, match=rf"a controller of {NAME} is at work already \({ELSEWHERE}\)"),
            RolloutStore(place, clock).lease(NAME, this_process(), 30),
        ):
            pass
    assert clock.now_s < 1001


def test_a_lease_that_cannot_be_given_back_runs_out(place: Path, clock: Clock) -> None:
    with RolloutStore(place, clock).lease(NAME, ELSEWHERE, 30):
        kept = place.read_bytes()
        for file in place.parent.glob("rollouts.db*"):
            file.unlink()
        place.write_text("no database " * 1000)
    place.write_bytes(kept)

    with RolloutStore(place, clock).lease(NAME, ELSEWHERE, 30):
        pass


def test_what_goes_wrong_under_a_lease_gives_it_back(place: Path, clock: Clock) -> None:
    store = RolloutStore(place, clock)
    with pytest.raises(ZeroDivisionError), store.lease(NAME, ELSEWHERE, 600):
        raise ZeroDivisionError

    with RolloutStore(place, clock).lease(NAME, this_process(), 600):
        assert clock.now_s == 1000
    store.save(rollout())


def test_this_process_lives() -> None:
    assert not has_ended(this_process())


def test_a_process_that_ended_is_known_to_have_even_before_its_parent_looked() -> None:
    code = "from slipway.rollout.store.lease import this_process; print(this_process())"
    ended = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert ended.stdout is not None
    with ended.stdout as told:
        owner = told.read().strip()
    while Path(f"/proc/{ended.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        pass

    assert has_ended(owner), "a zombie"
    ended.wait()
    assert has_ended(owner)


@pytest.mark.parametrize(
    ("changed", "to"),
    [(0, "another-host"), (3, "another-boot:1")],
    ids=["another host", "another container"],
)
def test_of_processes_elsewhere_nothing_is_known(changed: int, to: str) -> None:
    parts = this_process().split(" ")
    parts[1], parts[changed] = "999999999", to

    assert not has_ended(" ".join(parts))


def test_a_process_that_has_another_ones_id_is_not_that_one() -> None:
    parts = this_process().split(" ")
    parts[2] = "1"

    assert has_ended(" ".join(parts))


@pytest.mark.parametrize("owner", ["", "me", socket.gethostname(), f"{socket.gethostname()} 12", "a b c d e f"])
def test_of_an_owner_that_is_no_process_nothing_is_known(owner: str) -> None:
    assert not has_ended(owner)


def test_an_unreachable_store_is_told_to_whoever_wants_the_lease(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = RolloutStore(tmp_path / "file" / "rollouts.db")

    with pytest.raises(InfrastructureError), store.lease(NAME, this_process(), 30):
        pass
