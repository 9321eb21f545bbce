from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest

from slipway.errors import InfrastructureError
from slipway.records import ReleaseRequest
from slipway.triggers import deliveries
from slipway.triggers.decide import Asked, RolloutRequest
from slipway.triggers.deliveries import KEPT_SECONDS, Deliveries, Delivery, Standing

RELEASE = ReleaseRequest(model="models:/digits/3", params="params.yaml", reason="it was registered")
ROLLOUT = RolloutRequest(name="digits", target="x86", version="3", params="params.yaml", reason="a challenger")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "deliveries.db"


@pytest.fixture
def store(file: Path) -> Deliveries:
    return Deliveries(file)


def delivery(name: str, received_s: float = 100.0, asked: Asked | None = RELEASE) -> Delivery:
    return Delivery(name, received_s, "10.0.0.7", b"{}", asked, None if asked is None else f"key of {name}")


@pytest.mark.parametrize("asked", [RELEASE, ROLLOUT, None])
def test_what_is_kept_is_there_after_a_restart(store: Deliveries, file: Path, asked: Asked | None) -> None:
    assert store.keep(delivery("a", asked=asked))
    assert Deliveries(file).pending() == [delivery("a", asked=asked)]


def test_a_delivery_is_kept_once(store: Deliveries) -> None:
    assert not store.seen("a")
    assert store.keep(delivery("a"))
    assert not store.keep(delivery("a", received_s=101, asked=ROLLOUT))
    assert store.seen("a")
    store.done("a", "handed over", 102)
    assert not store.keep(delivery("a"))
    assert store.pending() == []


def test_of_many_who_bring_the_same_delivery_one_is_first(store: Deliveries) -> None:
    kept: list[bool] = []
    threads = [threading.Thread(target=lambda: kept.append(store.keep(delivery("a")))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(kept) == [False] * 7 + [True]


def test_what_failed_comes_behind_what_did_not(store: Deliveries) -> None:
    for number, name in enumerate("abc"):
        store.keep(delivery(name, received_s=number))
    store.failed("a")
    store.failed("a")
    store.failed("b")
    assert [one.delivery_id for one in store.pending()] == ["c", "b", "a"]


def test_the_event_that_was_asked_for_is_kept(store: Deliveries) -> None:
    event_id = uuid4()
    store.keep(delivery("a", asked=None))
    store.decided("a", ROLLOUT, "a key")
    store.asked("a", event_id, 123.5)
    (found,) = store.pending()
    assert (found.asked, found.key, found.event_id, found.asked_s) == (ROLLOUT, "a key", event_id, 123.5)


def test_it_tells_how_much_waits_and_since_when(store: Deliveries) -> None:
    assert store.standing() == Standing(0, None, None)
    for number, name in enumerate("abc"):
        store.keep(delivery(name, received_s=10 + number))
    store.done("a", "handed over", 20)
    assert store.standing() == Standing(2, 11, 12)


def test_only_what_is_done_and_old_is_forgotten(store: Deliveries) -> None:
    for name, received_s in (("old", 0), ("old and pending", 0), ("young", 10)):
        store.keep(delivery(name, received_s=received_s))
    store.done("old", "handed over", 1)
    store.done("young", "handed over", 11)

    assert store.prune(KEPT_SECONDS + 5) == 1

    assert [store.seen(name) for name in ("old", "old and pending", "young")] == [False, True, True]


def test_it_writes_ahead_so_that_readers_never_wait(store: Deliveries, file: Path) -> None:
    store.keep(delivery("a"))
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        other.execute("BEGIN IMMEDIATE")
        assert store.pending() == [delivery("a")]


def test_a_file_that_somebody_holds_is_told_and_used_again_later(
    store: Deliveries, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "BUSY_SECONDS", 0.1)
    store.keep(delivery("a"))
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(InfrastructureError, match=r"deliveries\.db cannot be kept: database is locked; look at"):
            store.keep(delivery("b"))
    assert store.keep(delivery("b"))


def test_what_is_no_database_is_told(file: Path, store: Deliveries) -> None:
    file.parent.mkdir()
    file.write_bytes(b"not a database, but long enough to be taken for one" * 100)
    with pytest.raises(InfrastructureError, match="cannot be kept: file is not a database"):
        store.keep(delivery("a"))


def test_a_full_disk_keeps_nothing_and_loses_nothing(store: Deliveries, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's own limit of pages fails as a full disk does."""
    store.keep(delivery("a"))
    connect = sqlite3.connect

    def small(*arguments: object, **named: object) -> sqlite3.Connection:
        connection = connect(*arguments, **named)  # type: ignore[call-overload]
        connection.execute("PRAGMA max_page_count = 1")
        return connection  # type: ignore[no-any-return]

    with monkeypatch.context() as patched:
        patched.setattr(sqlite3, "connect", small)
        with pytest.raises(InfrastructureError, match="database or disk is full"):
            store.keep(Delivery("b", 1.0, "10.0.0.7", os.urandom(2**20)))
    assert [one.delivery_id for one in store.pending()] == ["a"]
    assert store.keep(Delivery("b", 1.0, "10.0.0.7", os.urandom(2**20)))


def test_a_file_that_was_deleted_is_made_anew(store: Deliveries, file: Path) -> None:
    store.keep(delivery("a"))
    for left in file.parent.iterdir():
        left.unlink()
    assert store.keep(delivery("a"))
