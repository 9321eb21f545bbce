from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from slipway.errors import BadInputError, InfrastructureError
from slipway.rollout.store import database
from slipway.rollout.store.rollouts import RolloutStore
from tests.unit.rollout.states import NAME, progressing, rollout


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("rollouts.db", "is no URL of a database"),
        ("postgresql://owner:s3cret@host:port/db", "is no URL of a database"),
        ("mysql://owner:s3cret@host/db", "rollouts cannot be kept in 'mysql'"),
        ("sqlite://", "rollouts have to outlive this process"),
        ("sqlite:///:memory:", "rollouts have to outlive this process"),
    ],
)
def test_a_url_that_names_no_database_for_rollouts_is_bad_input(url: str, told: str) -> None:
    with pytest.raises(BadInputError, match=told) as refused:
        RolloutStore(url)

    assert "give sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE" in str(refused.value)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2"])
def test_every_way_to_write_postgresql_is_the_driver_that_is_installed(scheme: str) -> None:
    store = RolloutStore(f"{scheme}://owner:s3cret@host/db?password=s3cret")

    assert store.shown == "postgresql+psycopg://owner:***@host/db"


def test_a_server_that_does_not_answer_is_told_without_the_password() -> None:
    store = RolloutStore("postgresql://owner:s3cret@127.0.0.1:1/db")

    with pytest.raises(InfrastructureError, match="check that the server is up and SLIPWAY_ROLLOUTS_URL") as told:
        store.latest(NAME)

    assert "s3cret" not in str(told.value)
    assert "owner:***@127.0.0.1:1/db" in str(told.value)


def test_a_store_is_made_at_its_first_use_in_any_directory(tmp_path: Path) -> None:
    place = tmp_path / "a?b #c%20" / "rollouts.db"
    store = RolloutStore(place)
    assert not place.parent.exists()

    store.save(rollout())

    assert place.exists()
    assert RolloutStore(place).latest(NAME) == rollout()


def test_a_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = RolloutStore("sqlite:///.slipway/rollouts.db")
    monkeypatch.chdir("/")

    store.save(rollout())

    assert (tmp_path / ".slipway" / "rollouts.db").exists()


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(InfrastructureError, match="directory that can be written to; else set SLIPWAY_ROLLOUTS_URL"):
        RolloutStore(tmp_path / "file" / "rollouts.db").latest(NAME)


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "rollouts.db").write_text("no database " * 1000)

    with pytest.raises(InfrastructureError, match="file is not a database; it has to be Slipway's own"):
        RolloutStore(tmp_path / "rollouts.db").latest(NAME)


def test_a_database_that_somebody_holds_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    store = RolloutStore(tmp_path / "rollouts.db")
    store.save(rollout())
    with closing(sqlite3.connect(tmp_path / "rollouts.db", isolation_level=None)) as held:
        held.execute("BEGIN IMMEDIATE")
        assert store.latest(NAME) == rollout(), "readers do not wait"
        with pytest.raises(InfrastructureError, match=r"another process has held it for 0\.1 s"):
            store.save(progressing())
    store.save(progressing())


def test_a_state_and_its_history_are_written_together_or_not_at_all(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path / "rollouts.db")
    store.save(rollout())
    with closing(sqlite3.connect(tmp_path / "rollouts.db")) as raw:
        raw.execute("DROP TABLE slipway_rollout_history")

    with pytest.raises(InfrastructureError, match="no such table"):
        store.save(progressing())

    assert store.latest(NAME) == rollout()


def test_a_record_of_another_version_is_told(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path / "rollouts.db")
    store.save(rollout())
    with closing(sqlite3.connect(tmp_path / "rollouts.db")) as raw, raw:
        raw.execute("UPDATE slipway_rollouts SET body = '{\"colour\": 1}'")

    with pytest.raises(InfrastructureError, match=r"cannot be read by Slipway .*; use the one that wrote it"):
        store.latest(NAME)
