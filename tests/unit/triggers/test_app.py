from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.testclient import TestClient

from slipway.errors import BadInputError
from slipway.records import ReleaseRequest
from slipway.triggers import app, deliveries
from slipway.triggers.app import Receiver, read_body
from slipway.triggers.decide import Released
from slipway.triggers.deliveries import Deliveries
from slipway.triggers.handover import Contact
from slipway.triggers.metrics import Figures
from slipway.triggers.signature import RefusedDeliveryError
from tests.unit.triggers.deliveries import DELIVERY, NOW_S, RELEASED, SECRET, RecordedLog, announced, signed


class Office:
    """A receiver, and a client that posts to it."""

    def __init__(self, root: Path) -> None:
        self.file = root / "deliveries.db"
        self.store, self.log, self.woken = Deliveries(self.file), RecordedLog(), 0
        self.released: Callable[[], Mapping[str, Released]] = lambda: RELEASED
        self.receiver = Receiver(
            SECRET, self.store, self._read, Figures(self.store.standing), self.log, clock=lambda: NOW_S
        )
        self.receiver.wake = self._wake
        self.client = TestClient(self.receiver.app(), raise_server_exceptions=False, client=("10.0.0.7", 5000))

    def _wake(self) -> None:
        self.woken += 1

    def _read(self) -> Mapping[str, Released]:
        return self.released()

    def post(self, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, str, str]:
        """The status, the outcome, and why."""
        answer = self.client.post("/mlflow", content=body, headers=signed(body) if headers is None else headers)
        assert answer.text.count("\n") == 1
        told = answer.json()
        return answer.status_code, told["outcome"], told.get("why") or told["error"]

    def count(self, outcome: str) -> float:
        """The deliveries with that outcome."""
        lines = self.client.get("/metrics").text.splitlines()
        start = f'slipway_webhook_deliveries_total{{outcome="{outcome}"}} '
        return sum(float(line.removeprefix(start)) for line in lines if line.startswith(start))


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    office = Office(tmp_path)
    with office.client:
        yield office


def test_a_delivery_is_on_the_disk_before_it_is_answered(office: Office) -> None:
    assert office.post(announced()) == (202, "accepted", "model version 3 of digits was registered")
    with closing(sqlite3.connect(office.file)) as other:
        assert other.execute("SELECT delivery_id, sender FROM deliveries").fetchall() == [(DELIVERY, "10.0.0.7")]
    (kept,) = office.store.pending()
    assert kept.asked == ReleaseRequest(
        model="models:/digits/3",
        params="params.yaml",
        reason=f"model version 3 of digits was registered (webhook delivery {DELIVERY})",
    )
    assert office.woken == 1
    (line,) = office.log.lines
    assert (line["who"], line["what"], line["delivery"]) == ("10.0.0.7", "accepted", DELIVERY)


def test_a_delivery_that_comes_again_changes_nothing(office: Office) -> None:
    office.post(announced())
    for _ in range(2):
        status, outcome, _ = office.post(announced())
        assert (status, outcome) == (200, "seen already")
    assert (len(office.store.pending()), office.woken, office.count("seen already")) == (1, 1, 2)


def test_many_at_once_are_one(office: Office) -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(office.post(announced())[0])) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(found) == [200] * 5 + [202]
    assert len(office.store.pending()) == 1


def test_mlflows_own_test_succeeds_and_starts_nothing(office: Office) -> None:
    """It tells whoever created the webhook that the address and the secret are right."""
    status, outcome, why = office.post(announced(name="example_model"))
    assert (status, outcome) == (200, "refused")
    assert why == "no params file of this project describes releases of example_model; described: digits, faces"
    assert office.store.pending() == []


def test_who_does_not_know_the_secret_is_refused(office: Office) -> None:
    body = announced()
    assert office.post(body, {})[:2] == (401, "unsigned")
    assert office.post(body, signed(body, secret="another"))[:2] == (401, "wrong signature")
    assert office.post(body, signed(body, timestamp_s=NOW_S - 301))[:2] == (401, "stale")
    assert office.store.pending() == []
    assert [office.count(outcome) for outcome in ("unsigned", "wrong signature", "stale", "accepted")] == [1, 1, 1, 0]


def test_strangers_cannot_fill_the_log(office: Office) -> None:
    for _ in range(50):
        office.post(b"\n\n", {})
    assert len(office.log.lines) < 10
    assert office.count("unsigned") == 50


@pytest.mark.parametrize(("method", "path"), [("GET", "/mlflow"), ("PUT", "/mlflow"), ("POST", "/health")])
def test_a_wrong_method_is_told(office: Office, method: str, path: str) -> None:
    answer = office.client.request(method, path)
    assert answer.status_code == 405
    assert answer.json() == {
        "error": f"Method Not Allowed: {method} {path}; known: POST /mlflow, GET /health, GET /metrics"
    }


def test_a_wrong_path_is_told_in_one_line(office: Office) -> None:
    answer = office.client.get("/a%0Ab")
    assert (answer.status_code, answer.text.count("\n")) == (404, 1)


def test_a_body_that_is_too_large_is_refused(office: Office) -> None:
    largest = announced(description="x" * (2**20 - len(announced(description=""))))
    assert office.post(largest)[0] == 202
    assert office.post(largest + b" ")[:2] == (413, "too large")


def test_a_store_that_fails_lets_mlflow_try_again(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "BUSY_SECONDS", 0.1)
    office.post(announced(version="1"), signed(announced(version="1"), "first"))
    body = announced()
    with closing(sqlite3.connect(office.file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        answer = office.client.post("/mlflow", content=body, headers=signed(body))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
    assert "database is locked" in answer.json()["error"]
    assert office.post(body)[0] == 202


def test_without_readable_parameters_a_delivery_is_kept(office: Office) -> None:
    def wrong() -> Mapping[str, Released]:
        raise BadInputError("params.yaml: unknown key")

    office.released = wrong
    status, outcome, why = office.post(announced())
    assert (status, outcome) == (202, "accepted")
    assert why.endswith("kept until the project's parameters can be read: params.yaml: unknown key")
    (kept,) = office.store.pending()
    office.released = lambda: RELEASED
    asked, key = office.receiver.decide(kept)
    assert isinstance(asked, ReleaseRequest)
    assert (asked.model, key) == ("models:/digits/3", "model version digits/3 from models:/m-1")


def test_what_nobody_foresaw_is_answered_without_its_words(office: Office) -> None:
    def broken() -> Mapping[str, Released]:
        raise ZeroDivisionError("inner\nmatters")

    office.released = broken
    assert office.post(announced()) == (500, "failed", "the receiver failed; its log tells why")
    assert office.log.told("failed") == ["unforeseen ZeroDivisionError: inner matters"]


def test_health_tells_what_waits_and_whether_prefect_answers(office: Office) -> None:
    office.receiver.contact = lambda: Contact(reachable=False, since_s=NOW_S)
    office.post(announced())
    assert office.client.get("/health").json() == {
        "prefect": {"reachable": False, "since": "2027-01-15T08:00:00+00:00"},
        "pending": 1,
        "last_delivery": "2027-01-15T08:00:00+00:00",
    }


def test_a_store_that_fails_is_told_by_health_and_metrics(office: Office) -> None:
    office.file.write_bytes(b"no database " * 1000)
    answer = office.client.get("/health")
    assert answer.status_code == 503
    assert "file is not a database" in answer.json()["error"]
    assert "slipway_webhook_store_up 0.0" in office.client.get("/metrics").text


def test_prometheus_finds_what_waits(office: Office) -> None:
    office.post(announced())
    lines = office.client.get("/metrics").text.splitlines()
    assert {"slipway_webhook_pending 1.0", "slipway_webhook_store_up 1.0"} <= set(lines)
    assert office.count("accepted") == 1


def test_a_slow_body_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.2)
        return {"type": "http.request", "body": b"x", "more_body": True}

    monkeypatch.setattr(app, "BODY_SECONDS", 0.5)
    request = Request({"type": "http", "method": "POST", "headers": []}, receive)
    with pytest.raises(RefusedDeliveryError) as error:
        asyncio.run(read_body(request))
    assert (error.value.status, error.value.outcome) == (408, "slow body")
