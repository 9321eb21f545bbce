"""``kill -9`` at every call that the controller makes, before it and after it took effect: the same end, resumed."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from slipway.records import Phase
from slipway.rollout.controller import SETTLED, unfinished
from tests.unit.rollout.controller_world import NAME, World

GOOD: dict[str, Any] = {}
BAD: dict[str, Any] = {"slower": 2.5}
REFUSED: dict[str, Any] = {"today_md5": "e" * 32 + ".dir"}


def follows_what_was_saved(world: World) -> None:
    """At no moment has the challenger a share that is not that of the newest saved state, or none at all."""
    allowed = {one.share_percent for one in world.store.history[-1:]} | {0.0}
    before = {one.share_percent for one in world.store.history[-2:]}
    assert world.splitter.share() in allowed | before


@pytest.mark.parametrize("effective", [False, True], ids=["before the call", "after it"])
@pytest.mark.parametrize(
    ("course", "phase", "aliases"),
    [
        (GOOD, Phase.PROMOTED, {"champion": "2", "previous": "1"}),
        (BAD, Phase.ROLLED_BACK, {"champion": "1"}),
        (REFUSED, Phase.INCONCLUSIVE, {"champion": "1", "challenger": "2"}),
    ],
    ids=["promoted", "rolled back", "refused"],
)
def test_killed_at_any_call_it_resumes_to_the_same_end(
    course: dict[str, Any], phase: Phase, aliases: dict[str, str], effective: bool, tmp_path: Path
) -> None:
    untouched = World(tmp_path, **course)
    untouched.run()

    for call in range(1, untouched.calls + 1):
        world = World(tmp_path, killed_at=call, effective=effective, **course)
        if not effective:
            check = partial(follows_what_was_saved, world)
            world.at += [(1_000.0 + second, check) for second in range(1, 60)]
        end = world.run_through()

        assert end.phase is phase, (call, end.reasons)
        assert world.aliases == aliases, call
        assert world.splitter.share() == 0, call
        assert world.phases() == untouched.phases(), call
        assert world.store.history[-1].phase is phase
        assert world.shadow[-1] is False
        assert SETTLED in {event.kind for event in world.store.events(end.rollout_id)}
        assert unfinished(world.store, NAME) is None
        assert world.closed, call
        assert world.recorded[-1].phase is phase, call
