from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from sklearn.datasets import load_digits

from slipway.decisions.drift import DRIFTED, LEAST_EXAMPLES, STABLE, drift
from slipway.errors import InfrastructureError
from slipway.measure.input_summary import InputDraw
from slipway.records import InputSummaries, Verdict
from slipway.serving.answering.drift import WINDOW_REQUESTS, DriftCollector, InputWatch, watch_of
from slipway.serving.http.inference_json import Array

IMAGES = (load_digits().images / 16).astype(np.float32)
ORDER = np.random.default_rng(0).permutation(len(IMAGES))
CALIBRATION, REQUESTS = IMAGES[ORDER[:500]], IMAGES[ORDER[500:]]


def summaries(**inputs: Array) -> InputSummaries:
    found = []
    for name, array in inputs.items():
        draw = InputDraw()
        draw.add(array)
        found.append(draw.summary(name))
    return InputSummaries(source="calibration", md5="d" * 32, inputs=tuple(found))


def watching(requests: Array, batch: int = 1) -> InputWatch:
    """A watch over handwritten digits that saw ``requests``."""
    watch = InputWatch(summaries(image=CALIBRATION))
    for start in range(0, len(requests), batch):
        watch.saw({"image": requests[start : start + batch]})
    return watch


@pytest.mark.parametrize("batch", [1, 4])
def test_digits_like_those_of_the_calibration_do_not_drift(batch: int) -> None:
    watch = watching(REQUESTS, batch)

    assert watch.shifts()["image"].psi < STABLE
    assert drift(watch.shifts()).verdict is Verdict.PASS


@pytest.mark.parametrize(
    "shifted",
    [REQUESTS * 16, REQUESTS + 0.2, 1 - REQUESTS, np.clip(REQUESTS * 0.3, 0, 1), np.zeros_like(REQUESTS)],
    ids=["unscaled", "brighter", "inverted", "darker", "black"],
)
def test_digits_from_another_camera_drift(shifted: Array) -> None:
    watch = watching(shifted)

    assert watch.shifts()["image"].psi > DRIFTED
    assert drift(watch.shifts()).verdict is Verdict.FAIL


def test_drift_is_noticed_although_the_requests_before_it_were_right() -> None:
    watch = watching(np.concatenate([REQUESTS[:WINDOW_REQUESTS], 1 - REQUESTS[:WINDOW_REQUESTS]]))

    assert drift(watch.shifts()).verdict is Verdict.FAIL
    for one in REQUESTS[:WINDOW_REQUESTS]:
        watch.saw({"image": one[np.newaxis]})
    assert drift(watch.shifts()).verdict is Verdict.PASS, "only the last requests count"


def test_nothing_is_told_of_a_few_requests() -> None:
    watch = watching(1 - REQUESTS[: LEAST_EXAMPLES - 1])

    assert drift(watch.shifts()).verdict is Verdict.INCONCLUSIVE


def test_the_window_holds_every_value_of_small_inputs() -> None:
    watch = InputWatch(summaries(x=np.array([[0.0], [1.0], [2.0]]), y=np.zeros((3, 2))), window=10)
    for value in range(25):
        watch.saw({"x": np.full((2, 1), value / 10), "y": np.zeros((2, 2))})

    found = watch.observed()
    assert (found["x"].counts.sum(), found["x"].examples) == (20, 20)
    assert (found["y"].counts.sum(), found["y"].examples) == (40, 20)


def test_a_request_without_an_input_leaves_nothing_of_an_older_one() -> None:
    watch = InputWatch(summaries(x=np.zeros((3, 2))), window=1)
    watch.saw({"x": np.zeros((1, 2))})
    watch.saw({"other": np.zeros((1, 2))})

    assert (watch.observed()["x"].counts.sum(), watch.observed()["x"].examples) == (0, 0)


def test_values_that_are_not_finite_are_counted_for_ever() -> None:
    watch = InputWatch(summaries(x=np.zeros((3, 4))), window=2)
    for _ in range(5):
        watch.saw({"x": np.array([[np.nan, np.inf, 0, 1]])})

    assert watch.nonfinite == {"x": 10}
    assert watch.observed()["x"].nonfinite == 4


def test_threads_lose_nothing() -> None:
    watch = InputWatch(summaries(x=np.zeros((3, 100))), window=8000)
    request = {"x": np.full((1, 100), np.nan)}

    def ask() -> None:
        for _ in range(1000):
            watch.saw(request)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    found = watch.observed()["x"]
    assert (found.examples, found.nonfinite, watch.nonfinite["x"]) == (4000, 4000 * 50, 4000 * 50)


def test_prometheus_reads_every_input_of_the_models_that_are_served_now() -> None:
    watches = [("digits.x86", "3", watching(REQUESTS)), ("digits.x86", "4", watching(1 - REQUESTS[:100]))]
    registry = CollectorRegistry()
    registry.register(DriftCollector(lambda: watches))

    text = generate_latest(registry).decode()

    labels = '{input="image",model="digits.x86",version="3"}'
    (told,) = [line for line in text.splitlines() if line.startswith("slipway_input_psi{")]
    found = watches[0][2].shifts()["image"]
    assert told == f"slipway_input_psi{labels} {found.psi}", "of version 4 too little is known"
    assert f"slipway_input_psi_by_chance{labels} {found.by_chance}" in text
    assert f"slipway_input_examples{labels} {WINDOW_REQUESTS}.0" in text
    assert 'slipway_input_examples{input="image",model="digits.x86",version="4"} 100.0' in text
    assert f"slipway_input_nonfinite_total{labels} 0.0" in text
    watches.clear()
    assert "digits.x86" not in generate_latest(registry).decode()


def test_what_is_kept_beside_the_engine_says_what_to_expect(tmp_path: Path) -> None:
    path = tmp_path / "inputs.json"
    path.write_text(summaries(image=CALIBRATION).model_dump_json())

    watch = watch_of({"inputs.json": path})

    assert watch is not None
    assert [one.name for one in watch.summaries.inputs] == ["image"]
    assert watch_of({"example.npz": path}) is None
    path.write_text('{"source": "elsewhere"}')
    with pytest.raises(InfrastructureError, match="cannot be read by this version of Slipway"):
        watch_of({"inputs.json": path})
