from __future__ import annotations

from pathlib import Path

import pytest

from slipway.errors import InfrastructureError
from slipway.records import Phase
from slipway.rollout.controller import WITHDRAWN
from slipway.rollout.store.lease import LeaseLostError
from tests.unit.rollout.controller_world import NAME, POLICY, Killed, World


def test_a_good_challenger_takes_every_step_bakes_and_becomes_champion(tmp_path: Path) -> None:
    world = World(tmp_path)

    end = world.run()

    assert end.phase is Phase.PROMOTED, end.reasons
    assert world.phases() == ["Pending -1", "Progressing 0", "Progressing 1", "Promoted 1"]
    assert world.splitter.calls == ["set_share 10", "set_share 50", "set_share 100", "set_share 0"]
    assert world.aliases == {"champion": "2", "previous": "1"}
    assert world.tags["slipway.decision"] == "promoted"
    assert [one.phase for one in world.recorded] == ["Progressing", "Progressing", "Promoted"]
    assert [one.phase for one in world.closed] == ["Promoted"]
    assert world.shadow == [True, False]


def test_the_alias_moves_only_once_the_promoted_challenger_has_baked(tmp_path: Path) -> None:
    """Until then the champion's server has the old engine, and all traffic is back there in one request."""
    world = World(tmp_path, policy=POLICY.model_copy(update={"bake_minutes": 1.0}))
    seen: list[tuple[float, str]] = []
    for second in range(1, 120):
        world.at.append((1_000.0 + second, lambda: seen.append((world.splitter.share(), world.aliases["champion"]))))

    world.run()

    assert seen.count((100.0, "1")) >= 55
    assert (100.0, "2") not in seen[:-3]


@pytest.mark.parametrize(
    ("wrong", "gate"), [({"slower": 2.5}, "latency_p95"), ({"failing": 0.3}, "errors")], ids=["slower", "failing"]
)
def test_a_bad_challenger_is_rolled_back_and_withdrawn(wrong: dict[str, float], gate: str, tmp_path: Path) -> None:
    world = World(tmp_path, **wrong)  # type: ignore[arg-type]

    end = world.run()

    assert end.phase is Phase.ROLLED_BACK
    assert end.reasons[0].startswith(f"{gate}: ")
    assert (end.share_percent, world.splitter.share(), world.splitter.calls[-1]) == (0, 0, "rollback")
    assert world.aliases == {"champion": "1"}
    assert (world.tags["slipway.decision"], world.tags["slipway.approver"]) == ("rolled back", "the canary")
    assert world.tags["slipway.reason"].startswith(f"{gate}: ")
    assert [one.phase for one in world.closed] == ["RolledBack"]


def test_without_traffic_it_ends_inconclusive_and_the_challenger_stays_for_a_person(tmp_path: Path) -> None:
    world = World(tmp_path, requests_per_s=0)

    end = world.run()

    assert end.phase is Phase.INCONCLUSIVE
    assert "no traffic" in end.reasons[0]
    assert world.now_s - 1_000 >= POLICY.max_minutes * 60
    assert world.splitter.share() == 0
    assert world.aliases == {"champion": "1", "challenger": "2"}
    assert "slipway.decision" not in world.tags


def test_what_turns_bad_while_it_bakes_is_rolled_back(tmp_path: Path) -> None:
    world = World(tmp_path, policy=POLICY.model_copy(update={"bake_minutes": 10.0}))
    world.at.append((1_060.0, lambda: setattr(world, "failing", 0.5)))

    end = world.run()

    assert world.phases()[-2:] == ["Promoted 1", "RolledBack 1"]
    assert end.reasons[0].startswith("errors: ")
    assert world.splitter.share() == 0
    assert world.aliases == {"champion": "1"}


def test_a_person_approves_and_rollback_stays_armed_until_then(tmp_path: Path) -> None:
    world = World(tmp_path, approval=True)
    world.at.append((1_100.0, world.consent))

    end = world.run()

    assert world.phases() == ["Pending -1", "Progressing 0", "Progressing 1", "WaitingForApproval 1", "Promoted 1"]
    assert end.reasons == ("approved by ada: looks fine",)
    assert world.aliases == {"champion": "2", "previous": "1"}

    armed = World(tmp_path, approval=True)
    armed.at.append((1_100.0, lambda: setattr(armed, "failing", 0.5)))
    assert armed.run().phase is Phase.ROLLED_BACK
    assert armed.phases()[-2:] == ["WaitingForApproval 1", "RolledBack 1"]


def test_waiting_for_a_person_has_no_end_of_its_own(tmp_path: Path) -> None:
    world = World(tmp_path, approval=True, policy=POLICY.model_copy(update={"max_minutes": 0.5}))
    world.at.append((1_060.0, world.consent))

    assert world.run().phase is Phase.PROMOTED
    assert world.now_s > 1_060


def test_an_alias_that_somebody_moved_ends_the_rollout_as_promoted(tmp_path: Path) -> None:
    world = World(tmp_path, approval=True)
    world.at.append((1_050.0, lambda: world.registry.promote(NAME, "2", "ada", "I know it")))

    end = world.run()

    assert (end.phase, end.reasons) == (Phase.PROMOTED, ("it was made champion by ada: I know it",))
    assert world.splitter.share() == 0
    assert world.aliases == {"champion": "2", "previous": "1"}


@pytest.mark.parametrize("word", ["reject", "withdraw"])
def test_a_person_s_no_rolls_back_and_stays_that_person_s(word: str, tmp_path: Path) -> None:
    world = World(tmp_path, approval=True)
    world.at.append((1_002.0, lambda: getattr(world.registry, word)(NAME, "2", "ada", "wrong colours")))

    end = world.run()

    told = {"reject": "rejected", "withdraw": "rolled back"}[word]
    assert (end.phase, end.reasons) == (Phase.ROLLED_BACK, (f"{told} by ada: wrong colours",))
    assert (world.tags["slipway.decision"], world.tags["slipway.approver"]) == (told, "ada")
    assert world.splitter.share() == 0


@pytest.mark.parametrize("alias", ["champion", "challenger"])
def test_another_contender_in_its_middle_is_inconclusive(alias: str, tmp_path: Path) -> None:
    world = World(tmp_path)
    world.registry.models[NAME].versions.append(world.registry.models[NAME].versions[1])
    world.at.append((1_002.0, lambda: world.registry.models[NAME].aliases.update({alias: "3"})))

    end = world.run()

    assert end.phase is Phase.INCONCLUSIVE
    assert end.reasons[0].startswith(f"the {alias} is now version 3, ")
    assert world.splitter.share() == 0


def test_evidence_that_changed_meanwhile_is_not_promoted(tmp_path: Path) -> None:
    world = World(tmp_path, today_md5="e" * 32 + ".dir")

    end = world.run()

    assert end.phase is Phase.INCONCLUSIVE
    assert end.reasons[0].startswith(f"not promoted: data: the data is now md5 {'e' * 32}.dir")
    assert world.splitter.share() == 0
    assert world.aliases == {"champion": "1", "challenger": "2"}


def test_a_champion_s_server_that_does_not_follow_is_told_of(tmp_path: Path) -> None:
    world = World(tmp_path, served=None)

    assert world.run().phase is Phase.PROMOTED
    assert world.warned == [
        "the champion's server has not opened version 2 yet; restart `slipway serve` if it does not"
    ]


def test_a_share_that_somebody_else_moved_is_set_again(tmp_path: Path) -> None:
    """The dead man, after a controller that slept for too long."""
    world = World(tmp_path)
    world.at.append((1_001.0, world.splitter.rollback))

    assert world.run().phase is Phase.PROMOTED
    assert world.splitter.calls[:3] == ["set_share 10", "rollback", "set_share 10"]


@pytest.mark.parametrize("part", ["splitter", "store"])
def test_a_part_that_is_down_for_a_while_is_waited_for(part: str, tmp_path: Path) -> None:
    world = World(tmp_path)
    broken = getattr(world, part)
    world.at += [(1_001.0, lambda: setattr(broken, "reachable", False))]
    world.at += [(1_004.0, lambda: setattr(broken, "reachable", True))]

    assert world.run().phase is Phase.PROMOTED
    assert world.warned == [f"the {part} does not answer; start it{' again' if part == 'splitter' else ''}"]


@pytest.mark.parametrize("part", ["splitter", "store"])
def test_a_part_that_is_gone_for_good_is_an_error_and_the_champion_serves(part: str, tmp_path: Path) -> None:
    world = World(tmp_path)
    world.at.append((1_001.0, lambda: setattr(getattr(world, part), "reachable", False)))

    end = world.run()

    assert end.phase is Phase.ERROR
    assert end.reasons[0].startswith(f"the {part} does not answer")
    if part == "store":
        assert world.splitter.share() == 0
    else:
        assert world.store.history[-1].phase is Phase.ERROR
    assert world.aliases == {"champion": "1", "challenger": "2"}


def test_a_store_that_is_down_does_not_keep_traffic_at_a_bad_challenger(tmp_path: Path) -> None:
    """Its lease cannot be renewed either, and nothing is saved: the gates are read all the same."""
    world = World(tmp_path, failing=0.3)
    world.at.append((1_001.0, lambda: setattr(world.store, "reachable", False)))

    with pytest.raises(InfrastructureError, match="the store does not answer"):
        world.run()

    assert world.splitter.calls[:2] == ["set_share 10", "rollback"]
    assert world.splitter.share() == 0
    assert world.store.history[-1].phase is Phase.PROGRESSING
    world.store.reachable = True
    assert world.run().phase is Phase.ROLLED_BACK
    assert "set_share" not in " ".join(world.splitter.calls[1:])


def killed(world: World, at_s: float) -> None:
    """Let the controller run until it is killed then, and the dead man return the traffic."""

    def kill() -> None:
        raise Killed

    world.at.append((at_s, kill))
    with pytest.raises(Killed):
        world.run()
    world.splitter.rollback()


def test_one_that_resumes_grows_nothing_before_it_has_looked(tmp_path: Path) -> None:
    world = World(tmp_path, failing=0.9)
    killed(world, 1_001.0)
    assert world.store.history[-1].phase is Phase.PROGRESSING
    world.pass_time(60)

    assert world.run().phase is Phase.ROLLED_BACK
    assert world.splitter.calls == ["set_share 10", "rollback", "rollback"]


def test_what_failed_while_it_baked_without_a_controller_is_not_promoted_afterwards(tmp_path: Path) -> None:
    """The time to bake is long over when a new controller comes, and what was logged in it still counts."""
    world = World(tmp_path, policy=POLICY.model_copy(update={"bake_minutes": 1.0}))
    until = 1_000.0
    while not world.store.history or world.store.history[-1].phase is not Phase.PROMOTED:
        until += 5
        killed(world, until)
    world.splitter.set_share(100)
    world.failing = 0.9
    world.pass_time(3)
    world.splitter.rollback()
    world.pass_time(600)

    end = world.run()

    assert (end.phase, end.reasons[0].partition(":")[0]) == (Phase.ROLLED_BACK, "errors")
    assert world.aliases == {"champion": "1"}


@pytest.mark.parametrize("registry", ["up", "down"])
def test_a_person_s_rollback_is_not_undone_by_a_controller_at_work(
    registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The traffic is back at once; the registry, which answers later or not at all, tells of it afterwards."""
    world = World(tmp_path, policy=POLICY.model_copy(update={"dead_man_seconds": 60}))
    whole = world.registry.aliases

    def aliases(name: str) -> dict[str, str]:
        if registry == "down" and 1_002 <= world.now_s < 1_010:
            raise InfrastructureError("the registry does not answer")
        return whole(name)

    def roll_back() -> None:
        world.splitter.rollback()
        world.store.record(world.store.history[-1].rollout_id, WITHDRAWN, "slipway rollback")

    monkeypatch.setattr(world.registry, "aliases", aliases)
    world.at.append((1_002.0, roll_back))

    end = world.run()

    assert (end.phase, end.reasons) == (Phase.ROLLED_BACK, ("rolled back: slipway rollback",))
    assert world.splitter.calls.count("set_share 10") == 1
    assert world.splitter.share() == 0


def test_a_withdrawal_that_was_cut_short_is_finished(tmp_path: Path) -> None:
    """Killed between the tag and the alias."""
    world = World(tmp_path, slower=2.5)
    world.at.append((1_001.0, lambda: world.registry.tag(NAME, "2", "slipway.decision", "rolled back")))

    assert world.run().phase is Phase.ROLLED_BACK
    assert world.aliases == {"champion": "1"}


def test_a_lost_lease_leaves_everything_to_the_other_controller(tmp_path: Path) -> None:
    from slipway.rollout.controller import Controller, Demands, begun

    world = World(tmp_path)
    looks = iter([None, None, LeaseLostError("another controller has taken over")])

    def renew() -> None:
        if (error := next(looks)) is not None:
            raise error

    rollout = begun(NAME, *world.contenders, POLICY, world.now_s)
    with pytest.raises(LeaseLostError):
        Controller(world._site(), rollout, Demands(None, approval_required=False)).run(renew)
    assert world.splitter.calls == ["set_share 10"]
    assert world.store.history[-1].phase is Phase.PROGRESSING


def test_a_registry_that_is_down_does_not_disarm_the_rollback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, slower=3.0)
    whole = world.registry.aliases

    def aliases(name: str) -> dict[str, str]:
        if 1_001 <= world.now_s < 1_004 and world.splitter.share() > 0:
            raise InfrastructureError("the registry does not answer")
        return whole(name)

    monkeypatch.setattr(world.registry, "aliases", aliases)

    assert world.run().phase is Phase.ROLLED_BACK
    assert world.aliases == {"champion": "1"}
