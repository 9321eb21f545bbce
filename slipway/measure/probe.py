"""Probe: some random examples of the test set, on which a hopeless candidate shows before it answers all others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slipway.decisions.sequential import drop_lower_bound, hopeless_after
from slipway.measure.accuracy import Comparison, require_alike
from slipway.measure.arrays import Array, Arrays, Infer, read_arrays, write_arrays
from slipway.measure.formulas import Scores
from slipway.measure.metrics import Metric

MOST_EXAMPLES = 256
MOST_SHARE = 0.25  # of the test set: a longer probe costs good candidates more than it saves on hopeless ones
MOST_BYTES = 64_000_000
BATCH = 16
ALPHA = 0.001
_INPUT, _OUTPUT, _TARGET, _EXAMPLE = "input/", "output/", "target", "example"


@dataclass(frozen=True)
class Probe:
    """Examples in random order, with what the reference answered; ``example`` is each one's number in the test set."""

    inputs: Arrays
    outputs: Arrays
    target: Array
    example: Array

    def part(self, start: int, end: int) -> Probe:
        """The examples from ``start`` to before ``end``."""
        inputs = {name: array[start:end] for name, array in self.inputs.items()}
        outputs = {name: array[start:end] for name, array in self.outputs.items()}
        return Probe(inputs, outputs, self.target[start:end], self.example[start:end])


class ProbeDraw:
    """Draws a probe from ``n`` examples that stream by: at most 256, a quarter of them, and 64 MB; seeded."""

    def __init__(self, n: int) -> None:
        most = min(MOST_EXAMPLES, int(n * MOST_SHARE))
        self._example = np.random.default_rng(0).permutation(n)[:most]
        self._arrays: dict[str, Array] = {}
        self._seen = 0

    def add(self, inputs: Arrays, outputs: Arrays, target: Array) -> None:
        """See the next examples."""
        batch = {_INPUT + name: array for name, array in inputs.items()}
        batch |= {**{_OUTPUT + name: array for name, array in outputs.items()}, _TARGET: target}
        if not self._arrays:
            self._example = self._example[: MOST_BYTES * len(target) // sum(array.nbytes for array in batch.values())]
            count = len(self._example)
            self._arrays = {name: np.empty((count, *array.shape[1:]), array.dtype) for name, array in batch.items()}
        at = self._example - self._seen
        (places,) = np.nonzero((at >= 0) & (at < len(target)))
        for name, array in batch.items():
            self._arrays[name][places] = array[at[places]]
        self._seen += len(target)

    def save(self, path: Path) -> bool:
        """Write the probe; False, and no file, where it holds no example."""
        if len(self._example) == 0:
            return False
        write_arrays(path, {**self._arrays, _EXAMPLE: self._example})
        return True


def load_probe(path: Path) -> Probe:
    """Read what `ProbeDraw.save` wrote."""
    arrays = read_arrays(path)
    inputs, outputs = (
        {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        for prefix in (_INPUT, _OUTPUT)
    )
    return Probe(inputs, outputs, arrays[_TARGET], arrays[_EXAMPLE])


def hopeless(infer: Infer, probe: Probe, metric: Metric, max_drop: float) -> tuple[Probe, Arrays] | None:
    """Answer the probe, 16 examples at a time, until it is settled that the drop exceeds ``max_drop``; None if never.

    Given are the examples that settled it, and the candidate's answers to them. A candidate whose drop is at most
    ``max_drop`` is given up with a probability of at most 0.001 (`hopeless_after`). ``metric`` is one of 0/1 scores.

    Raises:
        RejectedError: the candidate answers NaN, or other names or shapes than the reference.
    """
    answers: list[Arrays] = []
    drops = np.empty(0)
    for start in range(0, len(probe.target), BATCH):
        part = probe.part(start, start + BATCH)
        answer = {name: np.array(output) for name, output in infer(part.inputs).items()}
        require_alike(_shapes(part.outputs), _shapes(answer))
        name = next(iter(part.outputs))
        drops = np.append(drops, _scores(metric, part.outputs[name], part) - _scores(metric, answer[name], part))
        answers.append(answer)
        if hopeless_after(drops, max_drop, ALPHA) is not None:
            return probe.part(0, len(drops)), {name: np.concatenate([a[name] for a in answers]) for name in answer}
    return None


def given_up(comparison: Comparison, example: Array, available: int) -> Comparison:
    """A comparison over the examples that proved a candidate hopeless, told as what it is.

    The bounds are those of the sequential test, at its own confidence of 99.9%; since it tells nothing of how large the
    drop may be at most, the upper one is 1. ``example`` holds each example's number among those ``available``.
    """
    assert comparison.scores is not None
    before, after = (comparison.scores[side].astype(np.float64) for side in ("reference", "candidate"))
    drops = before - after
    concluded = {
        "drop_lower": drop_lower_bound(drops, ALPHA),
        "drop_upper": 1.0,
        "method": f"betting e-process on {len(drops)} random examples (Waudby-Smith & Ramdas 2020)",
        "available": available,
    }
    accuracy = comparison.accuracy.model_copy(update=concluded)
    return Comparison(accuracy, comparison.parity, {**comparison.scores, "example": example})


def _scores(metric: Metric, outputs: Array, part: Probe) -> Scores:
    scores = metric.scores(metric.kept(outputs, part.target))
    assert scores is not None
    return scores


def _shapes(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}
