"""Logs of a busy day: their reading takes time in proportion, and memory for what is still waited for."""

from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path

import pytest

from slipway.rollout.observing import pairs
from slipway.rollout.observing.observer import Observer
from slipway.rollout.observing.traffic import Routed, Traffic
from tests.unit.rollout.access_logs import DIGESTS, FakeLabels, Written
from tests.unit.rollout.states import STARTED_S, policy_json, progressing

LINES = 100_000


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """LINES requests to either arm in 2,000 s, each of them mirrored."""
    written = Written(tmp_path)
    logs = written.logs
    with logs.splitter.open("w") as splitter, logs.champion.open("w") as champion, logs.challenger.open("w") as other:
        for number in range(LINES):
            at_s, arm = STARTED_S + number / 50, "challenger" if number % 4 == 0 else "champion"
            request = f"{number:032x}"
            routed = {"start_s": at_s, "request_id": request, "asked": arm, "answered": arm, "code": 200}
            splitter.write(json.dumps(routed | {"upstream_us": 1000, "total_us": 1500, "flags": "-"}) + "\n")
            served = {"time": at_s, "request_id": request, "model": "m", "version": "1", "latency_us": 900}
            champion.write(json.dumps(served | {"digest": DIGESTS["champion"], "top1": [1]}) + "\n")
            other.write(json.dumps(served | {"digest": DIGESTS["challenger"], "top1": [number % 100]}) + "\n")
    return written


def test_a_hundred_thousand_lines_take_seconds_and_a_look_at_nothing_new_none(written: Written) -> None:
    labels = FakeLabels()
    for number in range(0, LINES, 10):
        labels.tell(f"{number:032x}", 1, at_s=number / 50 + 30)
    with Observer(progressing(policy_json=policy_json(label_minutes=1)), written.logs, labels) as observer:
        start = time.process_time()
        seen = observer.observe(progressing(), STARTED_S + 3000)
        first_s = time.process_time() - start
        start = time.process_time()
        observer.observe(progressing(), STARTED_S + 3001)
        again_s = time.process_time() - start

    assert len(seen.challenger_ms) == LINES / 4 - 1, "the first was before the champion took any"
    assert len(seen.disagreed) == LINES  # type: ignore[arg-type]
    assert len(seen.gained) == LINES / 10  # type: ignore[arg-type]
    assert seen.labels_missing == LINES * 9 / 10
    assert first_s < 60, "about 2 s on an idle host"
    assert again_s < first_s / 10


@pytest.mark.integration
def test_memory_is_for_what_is_waited_for_and_no_more(written: Written) -> None:
    with Observer(progressing(policy_json=policy_json(label_minutes=1)), written.logs, FakeLabels()) as observer:
        tracemalloc.start()
        observer.observe(progressing(), STARTED_S + 3000)
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    size = sum(log.stat().st_size for log in vars(written.logs).values())
    assert size > 50e6
    assert peak_bytes < 16e6, "3,000 requests wait for a minute; and 1 MiB of each log"


def test_a_run_that_will_not_count_is_not_kept() -> None:
    traffic = Traffic((1, 50))
    for _ in range(10_000):
        traffic.add(Routed(STARTED_S, "champion", "champion", 200, 1000))

    assert len(traffic._run) == 2000


def test_of_more_requests_than_may_wait_the_earliest_do_not() -> None:
    waiting = pairs.Pairs(wait_s=1e9, at_most=10)
    for number in range(100):
        waiting.answered("champion", str(number), (1,), float(number))
        waiting.answered("challenger", str(number), (1,), float(number))
    for number in range(100):
        waiting.labelled(str(number), (1,), 100.0)

    assert len(waiting.disagreed) == 100
    assert waiting.gained is not None
    assert len(waiting.gained) < 10
    assert waiting.labels_missing == 100 - len(waiting.gained)
    assert waiting.crowded_out > 0
