"""What a holder does when Prefect loses its lease, with a client that answers as told."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from slipway.errors import InfrastructureError
from tasks import slots
from tasks.slots import _acquired, _Lease


class Prefect:
    """A server with one slot, told what it answers to a renewal."""

    def __init__(self, renewal: int = 204, *, free: bool = True, limits: bool = True) -> None:
        self.renewal, self.free, self.limits = renewal, free, limits
        self.keeps_leases = True
        self.lease = uuid4()
        self.asked: list[str] = []

    def __enter__(self) -> Prefect:
        return self

    def __exit__(self, *_: object) -> None: ...

    def upsert_global_concurrency_limit_by_name(self, name: str, limit: int) -> None:
        assert limit == 1

    def increment_concurrency_slots_with_lease(self, names: list[str], *_: Any) -> httpx.Response:
        self.asked.append("increment")
        if not self.free:
            raise refusal(423)
        limits = [{"name": name} for name in names] if self.limits else []
        return httpx.Response(200, json={"lease_id": str(self.lease), "limits": limits})

    def renew_concurrency_lease(self, lease_id: UUID, seconds: float) -> None:
        if lease_id not in (UUID(int=1), self.lease):  # one that there never was
            raise refusal(410 if self.keeps_leases else 500)
        self.asked.append(f"renew {lease_id}")
        if self.renewal != 204:
            raise refusal(self.renewal)

    def release_concurrency_slots(self, names: list[str], count: int, seconds: float) -> None:
        self.asked.append(f"release {names} {count}")

    def release_concurrency_slots_with_lease(self, lease_id: UUID) -> None:
        self.asked.append(f"release {lease_id}")


def refusal(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "http://prefect")
    return httpx.HTTPStatusError(str(status), request=request, response=httpx.Response(status, request=request))


def held(monkeypatch: pytest.MonkeyPatch, prefect: Prefect, renewed_ago: float) -> _Lease:
    monkeypatch.setattr(slots, "get_client", lambda **_: prefect)
    lease = _Lease("release:tiny", UUID(int=1))
    lease._renewed = time.monotonic() - renewed_ago
    return lease


def test_a_lease_that_is_renewed_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    prefect = Prefect()
    lease = held(monkeypatch, prefect, 15)

    lease._renew(prefect)  # type: ignore[arg-type]
    lease.give_back()

    assert prefect.asked == [f"renew {UUID(int=1)}", f"release {UUID(int=1)}"]


def test_a_lease_that_the_server_forgot_before_its_time_is_given_back_by_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its database still counts the slot, and would for ever."""
    prefect = Prefect(renewal=410)
    lease = held(monkeypatch, prefect, 15)

    for _ in range(2):
        lease._renew(prefect)  # type: ignore[arg-type]
    lease.give_back()

    assert prefect.asked == [f"renew {UUID(int=1)}", "release ['release:tiny'] 1"]


@pytest.mark.parametrize("free", [True, False])
def test_a_lease_that_ran_out_is_had_again_if_nobody_took_it(monkeypatch: pytest.MonkeyPatch, free: bool) -> None:
    prefect = Prefect(renewal=410, free=free)
    lease = held(monkeypatch, prefect, 200)

    lease._renew(prefect)  # type: ignore[arg-type]
    lease.give_back()

    assert prefect.asked == [
        f"renew {UUID(int=1)}",
        "increment",
        f"release {prefect.lease if free else UUID(int=1)}",
    ]


def test_a_server_that_is_away_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    prefect = Prefect(renewal=500)
    lease = held(monkeypatch, prefect, 15)
    monkeypatch.setattr(slots, "RENEWAL_SECONDS", 0.0)
    monkeypatch.setattr(slots, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(lease.ended, "wait", lambda _: len(prefect.asked) == 3)
    monkeypatch.setattr(prefect, "release_concurrency_slots_with_lease", lambda _: (_ for _ in ()).throw(refusal(500)))

    lease.keep()
    lease.give_back()

    assert prefect.asked == [f"renew {UUID(int=1)}"] * 3


def test_a_slot_is_waited_for_and_its_waiter_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    prefect, told = Prefect(free=False), []
    monkeypatch.setattr(slots, "RETRY_SECONDS", 0.0)

    def waits(why: str) -> None:
        told.append(why)
        prefect.asked.clear()

    def sleep(_: float) -> None:
        prefect.free = len(prefect.asked) == 3

    monkeypatch.setattr(slots.time, "sleep", sleep)
    assert _acquired(prefect, "release:tiny", waits) == prefect.lease  # type: ignore[arg-type]
    assert told == ["the slot 'release:tiny' is taken"]


def test_a_limit_that_was_deleted_lets_nobody_in(monkeypatch: pytest.MonkeyPatch) -> None:
    prefect = Prefect(limits=False)
    monkeypatch.setattr(slots.time, "sleep", lambda _: setattr(prefect, "limits", len(prefect.asked) > 2))

    _acquired(prefect, "release:tiny", lambda _: None)  # type: ignore[arg-type]

    assert prefect.asked == ["increment"] * 4


def test_no_slot_is_asked_for_while_no_lease_could_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server would count it first, and then find that Redis is down."""
    prefect, slept = Prefect(), list[float]()
    prefect.keeps_leases = False

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        assert prefect.asked == []
        prefect.keeps_leases = len(slept) == 3

    monkeypatch.setattr(slots.time, "sleep", sleep)
    assert _acquired(prefect, "release:tiny", lambda _: None) == prefect.lease  # type: ignore[arg-type]
    assert prefect.asked == ["increment"]


def test_a_server_that_fails_for_a_while_is_not_told_as_a_slot_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    prefect, told = Prefect(), list[str]()
    answers = iter([refusal(503), refusal(503), None])

    def upsert(*_: object, **__: object) -> None:
        if error := next(answers):
            raise error

    monkeypatch.setattr(prefect, "upsert_global_concurrency_limit_by_name", upsert)
    monkeypatch.setattr(slots, "RETRY_SECONDS", 0.0)
    assert _acquired(prefect, "release:tiny", told.append) == prefect.lease  # type: ignore[arg-type]
    (message,) = told
    assert message.startswith("Prefect did not give the slot 'release:tiny', and is asked again: HTTPStatusError")


def test_a_server_that_stays_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "OUTAGE_SECONDS", -1.0)
    prefect = Prefect()
    monkeypatch.setattr(
        prefect,
        "upsert_global_concurrency_limit_by_name",
        lambda *_, **__: (_ for _ in ()).throw(httpx.ConnectError("refused")),
    )

    with pytest.raises(InfrastructureError, match="did not give the slot 'release:tiny': ConnectError: refused"):
        _acquired(prefect, "release:tiny", lambda _: None)  # type: ignore[arg-type]
