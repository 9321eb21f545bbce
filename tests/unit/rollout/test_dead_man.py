from __future__ import annotations

from pathlib import Path

import pytest

from slipway.errors import InfrastructureError
from slipway.records import Phase
from slipway.rollout.dead_man import DEAD_MAN_EVENT, return_if_silent
from slipway.rollout.store.lease import this_process
from slipway.rollout.store.rollouts import Heard, RolloutStore
from tests.fakes.splitter import FakeSplitter
from tests.unit.rollout.states import NAME, policy_json, progressing, rollout

POLICY = policy_json(dead_man_seconds=30)


class Clocked(RolloutStore):
    """A store whose clock is set by hand, and that can be out of reach."""

    def __init__(self, place: Path) -> None:
        self.now_s = 1000.0
        self.down = False
        super().__init__(place, lambda: self.now_s)

    def heard(self, name: str) -> Heard | None:
        if self.down:
            raise InfrastructureError("down")
        return super().heard(name)

    def record(self, rollout_id: str, kind: str, text: str, key: str = "") -> bool:
        if self.down:
            raise InfrastructureError("down")
        return super().record(rollout_id, kind, text, key)

    def look(self, splitter: FakeSplitter, after_s: float) -> bool:
        """What the dead man does so many seconds later."""
        self.now_s += after_s
        return return_if_silent(self, splitter, NAME, self.now_s)


@pytest.fixture
def store(tmp_path: Path) -> Clocked:
    return Clocked(tmp_path / "rollouts.db")


@pytest.fixture
def splitter() -> FakeSplitter:
    splitter = FakeSplitter()
    splitter.set_share(25)
    splitter.calls.clear()
    return splitter


@pytest.mark.parametrize("phase", [Phase.PROGRESSING, Phase.WAITING])
def test_the_traffic_goes_back_once_the_controller_was_silent_for_too_long(
    phase: Phase, store: Clocked, splitter: FakeSplitter
) -> None:
    store.save(rollout(phase=phase, policy_json=POLICY))

    assert not store.look(splitter, 30)
    assert splitter.share() == 25
    assert store.look(splitter, 1)
    assert splitter.share() == 0
    (event,) = store.events("r1")
    assert event.kind == DEAD_MAN_EVENT
    assert event.text == "nothing was heard of the controller for more than 30 s: all traffic went to the champion"


ENDS = [Phase.PROMOTED, Phase.ROLLED_BACK, Phase.INCONCLUSIVE, Phase.ERROR]


@pytest.mark.parametrize("phase", [Phase.PENDING, *ENDS])
def test_a_rollout_that_is_not_under_way_needs_no_controller(
    phase: Phase, store: Clocked, splitter: FakeSplitter
) -> None:
    store.save(rollout(phase=phase, policy_json=POLICY))
    splitter.set_share(0)

    assert not store.look(splitter, 1000)
    assert splitter.calls == ["set_share 0"]


@pytest.mark.parametrize("phase", ENDS)
def test_a_share_that_was_left_behind_an_end_is_taken_at_once(
    phase: Phase, store: Clocked, splitter: FakeSplitter
) -> None:
    """As by a controller killed between saving the end and applying it, or by one that ended while no gateway ran."""
    store.save(rollout(phase=phase, policy_json=POLICY))

    assert not store.look(splitter, 0)
    assert splitter.calls == ["rollback"]


def test_no_rollout_is_nothing_to_do(store: Clocked, splitter: FakeSplitter) -> None:
    assert not store.look(splitter, 0)
    assert not store.look(splitter, 1000)
    assert splitter.calls == []


def test_a_renewed_lease_keeps_the_traffic(store: Clocked, splitter: FakeSplitter) -> None:
    with store.lease(NAME, this_process(), 20) as lease:
        store.save(progressing(policy_json=POLICY))
        for _ in range(10):
            assert not store.look(splitter, 25)
            lease.renew()
    assert not store.look(splitter, 25), "a controller that ended is silent from then on"
    assert store.look(splitter, 10)


def test_one_silence_is_one_event_however_often_and_by_whomever_the_traffic_is_returned(
    store: Clocked, splitter: FakeSplitter, tmp_path: Path
) -> None:
    store.save(progressing(policy_json=POLICY))
    second = Clocked(tmp_path / "rollouts.db")
    second.now_s = 1050

    for _ in range(3):
        assert store.look(splitter, 50)
        assert second.look(splitter, 50)
    assert splitter.calls == ["rollback"]
    splitter.set_share(25)  # as one that was started anew, with an old file
    assert store.look(splitter, 50)
    assert splitter.share() == 0
    assert len(store.events("r1")) == 1


def test_a_controller_that_resumes_keeps_its_share_and_the_next_silence_is_another_event(
    store: Clocked, splitter: FakeSplitter
) -> None:
    store.save(progressing(policy_json=POLICY))
    assert store.look(splitter, 40)
    with store.lease(NAME, this_process(), 20):
        splitter.set_share(25)
        assert not store.look(splitter, 1)
        assert splitter.share() == 25
    assert store.look(splitter, 40)

    assert len(store.events("r1")) == 2


def test_a_store_that_is_out_of_reach_tells_of_no_life(store: Clocked, splitter: FakeSplitter) -> None:
    store.save(progressing(policy_json=POLICY))
    assert not store.look(splitter, 10)
    store.down = True

    assert not store.look(splitter, 20)
    assert store.look(splitter, 1)
    assert splitter.share() == 0
    assert store.look(splitter, 1)

    store.down = False
    assert store.look(splitter, 1)
    assert len(store.events("r1")) == 1


def test_what_was_done_while_the_store_was_out_of_reach_is_told_even_if_the_controller_is_back(
    store: Clocked, splitter: FakeSplitter
) -> None:
    store.save(progressing(policy_json=POLICY))
    assert not store.look(splitter, 0)
    store.down = True
    assert store.look(splitter, 40)
    store.down = False
    with store.lease(NAME, this_process(), 20):
        assert not store.look(splitter, 0)

    assert [event.kind for event in store.events("r1")] == [DEAD_MAN_EVENT]


def test_a_store_that_was_never_reached_leaves_no_share_to_a_challenger(store: Clocked, splitter: FakeSplitter) -> None:
    """As of a gateway that starts while the database is down."""
    store.down = True

    assert not store.look(splitter, 0)
    assert not store.look(splitter, 30)
    assert store.look(splitter, 1)
    assert splitter.share() == 0
    assert not store.look(splitter, 1), "the champion has it all"


def test_a_promoted_engine_that_nobody_watches_bake_is_returned_too(store: Clocked, splitter: FakeSplitter) -> None:
    store.save(rollout(phase=Phase.PROMOTED, share_percent=100, policy_json=POLICY))
    splitter.set_share(100)
    assert not store.look(splitter, 0)

    assert store.look(splitter, 1000)
    assert splitter.share() == 0


def test_what_has_all_of_it_keeps_it_where_no_store_ever_told_of_a_rollout(
    store: Clocked, splitter: FakeSplitter
) -> None:
    splitter.set_share(100)
    store.down = True

    assert not store.look(splitter, 1000)
    assert splitter.share() == 100


def test_a_rollout_that_began_after_the_last_word_is_returned_too(store: Clocked, splitter: FakeSplitter) -> None:
    store.save(rollout(phase=Phase.ROLLED_BACK, policy_json=POLICY))
    assert not store.look(splitter, 500)
    splitter.set_share(25)
    store.down = True

    assert not store.look(splitter, 30)
    assert store.look(splitter, 1)


def test_a_splitter_that_is_out_of_reach_is_told_and_tried_again(store: Clocked, splitter: FakeSplitter) -> None:
    store.save(progressing(policy_json=POLICY))
    splitter.reachable = False
    with pytest.raises(InfrastructureError, match="the splitter does not answer"):
        store.look(splitter, 40)
    assert store.events("r1") == []
    splitter.reachable = True

    assert store.look(splitter, 1)
    assert len(store.events("r1")) == 1


def test_a_splitter_that_does_not_tell_its_share_is_rolled_back_all_the_same(store: Clocked) -> None:
    class Mute(FakeSplitter):
        def share(self) -> float:
            raise InfrastructureError("no answer")

    splitter = Mute()
    store.save(progressing(policy_json=POLICY))

    assert store.look(splitter, 40)
    assert splitter.calls == ["rollback"]


def test_a_policy_of_another_version_is_no_reason_not_to_act(store: Clocked, splitter: FakeSplitter) -> None:
    store.save(progressing(policy_json='{"colour": 1}'))

    assert store.look(splitter, 31)
