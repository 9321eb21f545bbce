"""Input drift: some values of every request, and how far they have moved from the data of the release."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pydantic import ValidationError

from slipway.decisions.drift import LEAST_EXAMPLES, Observed, Shift, shift
from slipway.errors import InfrastructureError
from slipway.measure.input_summary import INPUTS_FILE, binned, drawn
from slipway.records import InputSummaries, InputSummary
from slipway.serving.http.inference_json import Array

WINDOW_REQUESTS = 1024
MOST_VALUES = 64  # of one request: how many requests there were says more than how much was seen of each
LABELS = ("model", "version", "input")


class InputWatch:
    """Keeps up to 64 values per input of each of the last 1,024 requests, from any thread.

    A request costs a copy of these values; they are binned when somebody asks.
    """

    def __init__(self, summaries: InputSummaries, window: int = WINDOW_REQUESTS) -> None:
        self.summaries = summaries
        self._window = window
        self._serial = 0
        self._lock = threading.Lock()
        self._kept = {one.name: _Kept(one, window) for one in summaries.inputs}

    def saw(self, arrays: Mapping[str, Array]) -> None:
        """Take in the inputs of a request, examples first."""
        with self._lock:
            serial, self._serial = self._serial, self._serial + 1
            for name, kept in self._kept.items():
                array = arrays.get(name)
                if array is None:
                    kept.sizes[serial % self._window] = 0
                else:
                    kept.put(serial % self._window, drawn(array, serial, MOST_VALUES), len(array) if array.ndim else 1)

    @property
    def nonfinite(self) -> dict[str, int]:
        """By input, how many NaN and infinities there were among all values that were ever kept."""
        return {name: kept.nonfinite for name, kept in self._kept.items()}

    def observed(self) -> dict[str, Observed]:
        """By input, what the window holds now."""
        with self._lock:
            copies = {name: kept.copied() for name, kept in self._kept.items()}
        return {name: self._kept[name].observed(*copy) for name, copy in copies.items()}

    def shifts(self) -> dict[str, Shift]:
        """By input, how far it has moved; `drift` judges that."""
        return {name: shift(self._kept[name].summary, one) for name, one in self.observed().items()}


class _Kept:
    """The values of one input, a row for each request; ``sizes`` tells how many are in a row."""

    def __init__(self, summary: InputSummary, window: int) -> None:
        self.summary = summary
        self.edges = np.array(summary.edges)
        self.values = np.zeros((window, MOST_VALUES))
        self.sizes = np.zeros(window, np.int64)
        self.examples = np.zeros(window, np.int64)
        self.nonfinite = 0

    def put(self, row: int, values: Array, examples: int) -> None:
        size = values.size
        place = self.values[row, :size]
        place[:] = values
        self.sizes[row] = size
        self.examples[row] = examples
        self.nonfinite += size - int(np.count_nonzero(np.isfinite(place)))

    def copied(self) -> tuple[NDArray[np.float64], NDArray[np.int64], int]:
        """Rows and sizes as they are now, and how many examples they are of."""
        return self.values.copy(), self.sizes.copy(), int(self.examples[self.sizes > 0].sum())

    def observed(self, values: NDArray[np.float64], sizes: NDArray[np.int64], examples: int) -> Observed:
        counts, nonfinite = binned(self.edges, values[np.arange(MOST_VALUES) < sizes[:, np.newaxis]])
        return Observed(counts, nonfinite, examples)


class DriftCollector(Collector):
    """What Prometheus reads about the inputs of the models that are served: each with its name and version."""

    def __init__(self, watched: Callable[[], Iterable[tuple[str, str, InputWatch]]]) -> None:
        self._watched = watched

    def collect(self) -> Iterator[Metric]:
        """The figures of the models that are served now; no index where too few examples came."""
        last = "of the last requests' inputs against the data of the release"
        psi = _gauge("slipway_input_psi", f"Population stability index {last}.")
        chance = _gauge("slipway_input_psi_by_chance", f"What the index {last} may reach by chance alone.")
        examples = _gauge("slipway_input_examples", "How many examples the index is told over.")
        broken = CounterMetricFamily(
            "slipway_input_nonfinite", "NaN and infinities among the input values that were looked at.", labels=LABELS
        )
        for model, version, watch in self._watched():
            for name, found in watch.shifts().items():
                labels = (model, version, name)
                examples.add_metric(labels, found.examples)
                broken.add_metric(labels, watch.nonfinite[name])
                if found.examples >= LEAST_EXAMPLES:
                    psi.add_metric(labels, found.psi)
                    chance.add_metric(labels, found.by_chance)
        yield from (psi, chance, examples, broken)


def _gauge(name: str, told: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, told, labels=LABELS)


def watch_of(companions: Mapping[str, Path]) -> InputWatch | None:
    """A watch over the inputs that ``inputs.json`` summarizes; None where none is kept beside the engine.

    Raises:
        InfrastructureError: another version of Slipway wrote it, and this one cannot read it.
    """
    path = companions.get(INPUTS_FILE)
    if path is None:
        return None
    try:
        return InputWatch(InputSummaries.model_validate_json(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise InfrastructureError(
            f"{path} cannot be read by this version of Slipway; release the model again"
        ) from error
