"""How aliases are followed: what moves is fetched once, what cannot be served is refused once."""

from __future__ import annotations

import copy
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from slipway.errors import BadInputError, InfrastructureError, TamperedError
from slipway.serving.processes.following import Change, Follower
from slipway.serving.processes.messages import Reach, Refuse, Swap, Unload
from slipway.serving.processes.models_file import ModelEntry
from slipway.stores.registry import CHALLENGER
from tests.fakes.evidence import HARDWARE
from tests.fakes.multiplier import NAME, move, register
from tests.fakes.registry import FakeRegistry

ENTRY = ModelEntry(name="tiny", target="x86")


class Followed:
    """A registry of three versions whose champion is the first, and a follower of it."""

    def __init__(self, folder: Path) -> None:
        self.registry, self.folder, self.changes = FakeRegistry(), folder / "engines", list[Change]()
        self.folder.mkdir()
        for factor in (1, 2, 3):
            register(self.registry, folder, factor)
        move(self.registry, "1")
        self.entries = [ENTRY]
        self.follower = Follower(self.registry, lambda: self.entries, HARDWARE, self.folder, self.changes.append)

    def looked(self, *, read: bool = False) -> list[Change]:
        """What a look submits."""
        self.changes.clear()
        self.follower.look(read)
        return list(self.changes)


@pytest.fixture
def followed(tmp_path: Path) -> Followed:
    """It was asked for the first engines."""
    followed = Followed(tmp_path)
    followed.follower.first()
    return followed


def swapped(changes: list[Change]) -> list[tuple[str, int]]:
    """The versions, and orders, of changes that are all swaps."""
    assert all(isinstance(change, Swap) for change in changes)
    return [(change.engine.version, change.engine.order) for change in changes if isinstance(change, Swap)]


def test_the_first_engines_come_with_all_that_serving_needs(tmp_path: Path) -> None:
    followed = Followed(tmp_path)
    followed.registry.promote(NAME, "2", "ada", "faster")
    (engine,) = followed.follower.first()
    assert (engine.name, engine.version, engine.order) == (NAME, "2", 1)
    assert (engine.origin.alias, engine.origin.decision) == ("champion", "promoted")
    assert (engine.origin.approver, engine.origin.reason) == ("ada", "faster")
    assert engine.origin.example is not None
    assert engine.path.is_relative_to(followed.folder / "1")
    assert engine.origin.example.is_relative_to(followed.folder / "1")


def test_an_alias_that_nobody_bears_is_told_with_those_that_are(tmp_path: Path) -> None:
    followed = Followed(tmp_path)
    followed.entries = [ENTRY.model_copy(update={"alias": CHALLENGER})]
    with pytest.raises(BadInputError, match=r"tiny.x86 has no challenger; aliases: champion \(version 1\)"):
        followed.follower.first()


def test_only_an_alias_that_moved_is_fetched_and_each_time_anew(followed: Followed) -> None:
    assert followed.looked() == []
    move(followed.registry, "2")
    assert swapped(followed.looked()) == [("2", 2)]
    assert followed.looked() == []
    move(followed.registry, "1")
    assert swapped(followed.looked()) == [("1", 3)]
    assert {path.name for path in followed.folder.iterdir()} == {"1", "2", "3"}


def stale(followed: Followed) -> str:
    """Make version 2 one that was built elsewhere."""
    version = followed.registry.models[NAME].versions[1]
    assert version.evidence is not None
    elsewhere = HARDWARE.model_copy(update={"cpu": "another cpu"})
    version.evidence = version.evidence.model_copy(update={"hardware": elsewhere, "attachments": ()})
    return "version 2 is refused: engine fp32/onnxruntime of models:/digits/1 is stale: built on another cpu"


def tampered(followed: Followed) -> str:
    """Let the registry hand out other bytes than it told."""

    def changed(*_: object) -> Path:
        raise TamperedError("other bytes")

    followed.registry.engine_path = changed  # type: ignore[method-assign]  # a store that went bad
    return "version 2 is refused: other bytes"


@pytest.mark.parametrize(("spoil", "outcome"), [(stale, "refused"), (tampered, "tampered")])
def test_what_cannot_be_served_is_refused_once_and_looked_at_again_when_the_alias_moved(
    followed: Followed, spoil: Callable[[Followed], str], outcome: str
) -> None:
    reason = spoil(followed)
    move(followed.registry, "2")
    (refuse,) = followed.looked()
    assert isinstance(refuse, Refuse)
    assert refuse.reason.startswith(reason)
    assert refuse.outcome == outcome
    assert followed.looked() == []
    assert {path.name for path in followed.folder.iterdir()} == {"1"}
    move(followed.registry, "1")
    if spoil is stale:
        assert [version for version, _ in swapped(followed.looked())] == ["1"]


def test_an_alias_that_is_taken_away_is_told_once_and_followed_when_it_is_back(followed: Followed) -> None:
    del followed.registry.models[NAME].aliases["champion"]
    (refuse,) = followed.looked()
    assert isinstance(refuse, Refuse)
    assert refuse.reason == "no version bears champion any more"
    assert followed.looked() == []
    move(followed.registry, "3")
    assert [version for version, _ in swapped(followed.looked())] == ["3"]


def test_a_model_that_is_taken_away_does_not_keep_others_from_being_followed(followed: Followed) -> None:
    followed.entries = [ModelEntry(name="gone", target="x86"), ENTRY]
    move(followed.registry, "2")
    refuse, swap = followed.looked(read=True)
    assert isinstance(refuse, Refuse)
    assert (refuse.name, refuse.reason) == ("gone.x86", "no registered model 'gone.x86'; there are tiny.x86")
    assert swapped([swap]) == [("2", 2)]


def test_a_registry_that_is_down_is_told_once_and_again_when_it_is_back(followed: Followed) -> None:
    def down() -> None:
        raise InfrastructureError("nobody answers at port 5000")

    up = followed.registry.check
    move(followed.registry, "2")
    followed.registry.check = down  # type: ignore[method-assign]  # for a while
    assert followed.looked() == [Reach(reason="nobody answers at port 5000")]
    assert followed.looked() == []
    followed.registry.check = up  # type: ignore[method-assign]
    swap, reach = followed.looked()
    assert (swapped([swap]), reach) == ([("2", 2)], Reach(reason=None))


def test_what_could_not_be_copied_is_tried_again(followed: Followed) -> None:
    def full(*_: object) -> Path:
        raise OSError(28, "No space left on device")

    engine_path = followed.registry.engine_path
    move(followed.registry, "2")
    followed.registry.engine_path = full  # type: ignore[method-assign]
    (reach,) = followed.looked()
    assert isinstance(reach, Reach)
    assert reach.reason == "OSError: [Errno 28] No space left on device"
    followed.registry.engine_path = engine_path  # type: ignore[method-assign]
    assert [version for version, _ in swapped(followed.looked()[:1])] == ["2"]


def test_a_model_that_cannot_be_copied_does_not_keep_others_from_being_followed(followed: Followed) -> None:
    followed.registry.models["large.x86"] = copy.deepcopy(followed.registry.models[NAME])
    move(followed.registry, "2")
    followed.entries = [ModelEntry(name="large", target="x86"), ENTRY]
    engine_path = followed.registry.engine_path

    def full(name: str, version: str, into: Path) -> Path:
        if name == "large.x86":
            raise OSError(28, "No space left on device")
        return engine_path(name, version, into)

    followed.registry.engine_path = full  # type: ignore[method-assign]
    swap, reach = followed.looked(read=True)
    assert (swapped([swap])[0][0], reach) == ("2", Reach(reason="OSError: [Errno 28] No space left on device"))


def test_entries_that_are_read_anew_load_unload_and_follow_another_alias(followed: Followed, tmp_path: Path) -> None:
    move(followed.registry, "2", CHALLENGER)
    followed.entries = [ENTRY.model_copy(update={"alias": CHALLENGER})]
    assert followed.looked() == []
    assert [version for version, _ in swapped(followed.looked(read=True))] == ["2"]
    followed.entries = []
    assert followed.looked(read=True) == [Unload(name=NAME)]
    followed.entries = [ENTRY]
    assert [version for version, _ in swapped(followed.looked(read=True))] == ["1"]


@pytest.mark.parametrize(
    "error", [BadInputError("models.yaml holds no list"), RuntimeError("models.yaml holds no list")]
)
def test_a_models_file_that_went_bad_changes_nothing(tmp_path: Path, error: Exception) -> None:
    followed = Followed(tmp_path)
    followed.follower.first()

    def bad() -> list[ModelEntry]:
        raise error

    changes: list[Change] = []
    follower = Follower(followed.registry, bad, HARDWARE, followed.folder, changes.append)
    follower.look(read=True)
    kind = "" if isinstance(error, BadInputError) else "RuntimeError: "
    assert changes == [f"the same models are served on: {kind}models.yaml holds no list"]


def test_what_was_lost_is_fetched_again(followed: Followed) -> None:
    followed.follower.fetch_again(NAME)
    assert swapped(followed.looked()) == [("1", 2)]
    followed.changes.clear()
    followed.follower.fetch_again(NAME)
    with followed.follower.following(0):
        wait_for_change(followed)
    assert swapped(followed.changes) == [("1", 3)]


def test_a_folder_that_a_cleaner_removed_is_made_again(followed: Followed) -> None:
    shutil.rmtree(followed.folder)
    move(followed.registry, "2")
    assert swapped(followed.looked()) == [("2", 2)]


def wait_for_change(followed: Followed) -> None:
    """Return once something was submitted."""
    deadline = time.monotonic() + 30
    while not followed.changes:
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("seconds", [0, 0.001])
def test_it_looks_when_it_is_told_to_and_by_itself_if_it_shall(tmp_path: Path, seconds: float) -> None:
    followed, came = Followed(tmp_path), threading.Event()
    followed.follower.first()
    follower = Follower(followed.registry, lambda: [ENTRY], HARDWARE, followed.folder / "1", lambda _: came.set())
    with follower.following(0):
        follower.look_now()  # reads the entries
        assert came.wait(30)
    if seconds:
        came.clear()
        move(followed.registry, "2")
        with followed.follower.following(seconds):
            wait_for_change(followed)
        assert swapped(followed.changes) == [("2", 2)]
