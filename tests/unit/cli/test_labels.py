from __future__ import annotations

from pathlib import Path

import pytest

from slipway.records import Phase
from slipway.rollout.store.rollouts import RolloutStore
from tests.unit.cli.conftest import Slipway
from tests.unit.rollout.states import NAME, progressing, rollout

ARGUMENTS = ("--name", "digits", "--target", "x86")


@pytest.fixture
def store(project: Path) -> RolloutStore:
    """The one that the command finds, with a rollout under way."""
    store = RolloutStore(project / ".slipway" / "rollouts.db")
    store.save(progressing())
    return store


@pytest.fixture
def file(project: Path) -> Path:
    file = project / "labels.csv"
    file.write_text("request_id,label\na,3\nb,4\n")
    return file


def known(store: RolloutStore) -> dict[str, tuple[int, ...]]:
    return {label.request_id: label.classes for label in store.labels_after(NAME, 0, 0.0)}


def test_labels_are_imported_once(slipway: Slipway, store: RolloutStore, file: Path) -> None:
    ended = slipway("labels", file, *ARGUMENTS)
    assert (ended.code, ended.stdout) == (0, "")
    assert "digits.x86: 2 labels, 2 of them new\n" in ended.stderr

    file.write_text(file.read_text() + "c,5\n")
    ended = slipway("labels", file, *ARGUMENTS, "--json")
    assert ended.code == 0
    assert ended.object == {"name": NAME, "rollout": "r1", "labels": 3, "new": 1}
    assert known(store) == {"a": (3,), "b": (4,), "c": (5,)}


def test_a_file_with_a_wrong_line_imports_nothing(slipway: Slipway, store: RolloutStore, file: Path) -> None:
    file.write_text("request_id,label\na,3\nb,cat\n")

    ended = slipway("labels", file, *ARGUMENTS)

    assert ended.code == 2
    assert "line 3: label of 'b' is a class from 0, or a list of them, found 'cat'" in ended.stderr
    assert known(store) == {}


def test_a_label_that_contradicts_a_known_one_imports_nothing(
    slipway: Slipway, store: RolloutStore, file: Path
) -> None:
    slipway("labels", file, *ARGUMENTS)
    file.write_text("request_id,label\nnew,1\na,4\n")

    ended = slipway("labels", file, *ARGUMENTS, "--json")

    assert ended.code == 2
    assert "'a' is [3], not [4]; nothing was imported" in ended.object["error"]
    assert known(store) == {"a": (3,), "b": (4,)}


@pytest.mark.usefixtures("store")
def test_a_name_without_a_rollout_is_told_with_the_nearest(slipway: Slipway, file: Path) -> None:
    ended = slipway("labels", file, "--name", "digit", "--target", "x86")

    assert ended.code == 2
    assert (
        "digit.x86 has no rollout to tell labels to, did you mean 'digits.x86'?; rollouts: digits.x86" in ended.stderr
    )


def test_that_the_rollout_has_ended_is_told(slipway: Slipway, store: RolloutStore, file: Path) -> None:
    store.save(rollout(phase=Phase.ROLLED_BACK))

    ended = slipway("labels", file, *ARGUMENTS)

    assert ended.code == 0
    assert "2 of them new; its rollout has ended: RolledBack" in ended.stderr


def test_a_store_that_is_out_of_reach_costs_five_and_tells_no_password(
    slipway: Slipway, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_ROLLOUTS_URL", "postgresql://owner:s3cret@127.0.0.1:1/db")

    ended = slipway("labels", file, *ARGUMENTS)

    assert ended.code == 5
    assert "check that the server is up and SLIPWAY_ROLLOUTS_URL is right" in ended.stderr
    assert "s3cret" not in ended.stderr
