"""One controller for each name, whatever becomes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from slipway.rollout.store.lease import LeaseHeldError, LeaseLostError, this_process
from slipway.rollout.store.rollouts import RolloutStore
from tests.contract.rollout_state.commits import WAIT_SECONDS, held_before_commit
from tests.unit.rollout.states import NAME, progressing, rollout

ROOT = Path(__file__).parents[3]
ELSEWHERE = "another-host 1 1 boot:1"  # of whose processes nothing is known here


@contextmanager
def controllers(count: int, url: str, seconds: float) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that wait for a line on stdin to take the lease on NAME; what is left of them is killed."""
    arguments = [sys.executable, "-m", "tests.contract.rollout_state.holder", url, NAME, str(seconds)]
    started = [
        subprocess.Popen(arguments, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    try:
        yield started
    finally:
        for process in started:
            with suppress(ProcessLookupError):
                process.kill()
            process.communicate()


def begin(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def told(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_the_holder_saves_and_whoever_does_not_hold_it_is_refused(store: RolloutStore, url: str) -> None:
    other = RolloutStore(url)
    with store.lease(NAME, this_process(), 60):
        store.save(rollout())
        with pytest.raises(LeaseHeldError, match=f"a controller of {NAME} is at work already"):
            other.save(progressing())
        other.save(rollout(rollout_id="r2", name="other.x86"))

    assert store.history("r1") == [rollout()]
    other.save(progressing())
    assert store.latest(NAME) == progressing()


def test_a_lease_that_ran_out_is_taken_over_and_its_holder_can_neither_save_nor_go_on(
    store: RolloutStore, url: str
) -> None:
    """As of a controller that was suspended, and wakes up."""
    other = RolloutStore(url)
    with store.lease(NAME, ELSEWHERE, 0.5) as slow:
        store.save(rollout())
        start = time.monotonic()
        with other.lease(NAME, this_process(), 60) as quick:
            assert time.monotonic() - start < 30
            assert quick.token == slow.token + 1
            with pytest.raises(LeaseLostError, match="another controller has taken over"):
                store.save(progressing())
            with pytest.raises(LeaseLostError, match=f"{ELSEWHERE}.* silent for more than 0.5 s"):
                slow.renew()
            slow.give_back()
            quick.renew()
            assert other.history("r1") == [rollout()]


def test_a_lease_that_ran_out_and_that_nobody_took_goes_on(store: RolloutStore) -> None:
    with store.lease(NAME, ELSEWHERE, 0.1) as lease:
        time.sleep(0.3)
        lease.renew()
        store.save(rollout())

    assert store.latest(NAME) == rollout()


def test_a_lease_that_was_given_back_is_taken_at_once(store: RolloutStore, url: str) -> None:
    for token in (1, 2, 3):
        with RolloutStore(url).lease(NAME, ELSEWHERE, 600) as lease:
            assert lease.token == token


def test_of_two_who_find_it_free_in_the_same_moment_one_takes_it(url: str) -> None:
    first, second = RolloutStore(url), RolloutStore(url)
    with first.lease(NAME, this_process(), 60):
        pass  # now there is one to be found free
    assert second.latest(NAME) is None  # its tables are there: it has nothing else to wait for

    def hold(store: RolloutStore, done: threading.Event) -> str:
        try:
            with store.lease(NAME, this_process(), 60) as lease:
                while not done.wait(0.1):
                    lease.renew()
                return f"held {lease.token}"
        except LeaseHeldError:
            return "refused"

    done = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        with held_before_commit(first) as reached:
            taking = [pool.submit(hold, first, done)]
            assert reached.wait(WAIT_SECONDS)
            taking.append(pool.submit(hold, second, done))
            wait(taking[1:], timeout=2)  # so that it has looked
        wait(taking[1:], timeout=WAIT_SECONDS)
        done.set()

    assert [taken.result() for taken in taking] == ["held 2", "refused"]


def test_names_are_leased_each_by_itself(store: RolloutStore) -> None:
    with store.lease(NAME, this_process(), 60), store.lease("other.x86", this_process(), 60):
        store.save(rollout())
        store.save(rollout(rollout_id="r2", name="other.x86"))


def test_a_renewed_lease_and_a_saved_state_are_signs_of_life(store: RolloutStore) -> None:
    store.save(progressing())
    saved = store.heard(NAME)
    assert saved is not None
    assert abs(saved.alive_s - time.time()) < 60
    with store.lease(NAME, this_process(), 60) as lease:
        taken = store.heard(NAME)
        lease.renew()
        renewed = store.heard(NAME)

    assert taken is not None
    assert renewed is not None
    assert saved.sign_s < taken.sign_s < renewed.sign_s
    assert store.heard(NAME) == renewed._replace(ahead_s=pytest.approx(renewed.ahead_s, abs=60)), "its end is none"


@pytest.mark.integration
def test_of_controllers_that_start_at_once_one_is_at_work(url: str) -> None:
    with controllers(4, url, 10.0) as started:  # renewed every 2 s, also on a busy host
        for process in started:
            begin(process)
        answers = [told(process) for process in started]

    assert sorted(answer.partition(" ")[0] for answer in answers) == ["LeaseHeldError:"] * 3 + ["held"]


@pytest.mark.integration
def test_a_controller_that_was_killed_is_followed_at_once_on_its_host(url: str) -> None:
    with controllers(2, url, 600.0) as (first, second):
        begin(first)
        assert told(first) == "held 1"
        first.send_signal(signal.SIGKILL)
        start = time.monotonic()
        begin(second)
        assert told(second) == "held 2"
        assert time.monotonic() - start < 60


@pytest.mark.integration
def test_a_controller_that_was_stopped_finds_its_lease_lost_when_it_wakes(url: str) -> None:
    with controllers(2, url, 1.0) as (first, second):
        begin(first)
        assert told(first) == "held 1"
        os.kill(first.pid, signal.SIGSTOP)
        begin(second)
        assert told(second) == "held 2"
        os.kill(first.pid, signal.SIGCONT)
        assert told(first).startswith("LeaseLostError: another controller has taken over")
