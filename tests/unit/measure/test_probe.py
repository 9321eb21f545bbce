from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slipway.config import AccuracyParams
from slipway.decisions.gates import accuracy_gate
from slipway.errors import RejectedError
from slipway.measure.accuracy import Comparison, compare
from slipway.measure.arrays import Array, Arrays, Infer
from slipway.measure.metrics import metric
from slipway.measure.predictions import save_predictions
from slipway.measure.probe import BATCH, Probe, ProbeDraw, given_up, hopeless, load_probe
from slipway.records import Verdict

TOP1 = metric("top1")


def drawn(path: Path, n: int, batch: int = 32, width: int = 4) -> Probe | None:
    """A probe of n examples, each of whose arrays tells its number; answers are right for all but one in ten."""
    draw = ProbeDraw(n)
    for start in range(0, n, batch):
        number = np.arange(start, min(start + batch, n))
        logits = np.eye(10)[np.where(number % 10 == 9, 0, number % 10)]
        inputs: dict[str, Array] = {"x": np.repeat(number[:, None], width, axis=1).astype(np.float32)}
        draw.add(inputs, {"logits": logits}, number % 10)
    return load_probe(path) if draw.save(path) else None


def probe_of(tmp_path: Path, n: int = 2000) -> Probe:
    probe = drawn(tmp_path / "probe.npz", n)
    assert probe is not None
    return probe


def answering(share_right: float, calls: list[int] | None = None) -> Infer:
    """A candidate that answers as the reference does for this share of the examples, and class 9 - label else."""

    def infer(inputs: Arrays) -> Arrays:
        number = inputs["x"][:, 0].astype(np.intp)
        kept = np.random.default_rng(int(number[0])).random(len(number)) < share_right
        if calls is not None:
            calls.append(len(number))
        return {"logits": np.eye(10)[np.where(kept, np.where(number % 10 == 9, 0, number % 10), 9 - number % 10)]}

    return infer


def test_a_probe_holds_random_examples_in_random_order_with_all_that_belongs_to_each(tmp_path: Path) -> None:
    probe = probe_of(tmp_path)

    number = probe.inputs["x"][:, 0].astype(np.intp)
    assert len(set(number.tolist())) == len(number) == 256
    np.testing.assert_array_equal(probe.example, number)
    np.testing.assert_array_equal(probe.target, number % 10)
    np.testing.assert_array_equal(probe.outputs["logits"].argmax(1), np.where(number % 10 == 9, 0, number % 10))
    assert np.any(np.diff(number) < 0)
    assert number.min() < 100
    assert number.max() >= 1900


@pytest.mark.parametrize(("n", "expected"), [(3, None), (4, 1), (100, 25), (1024, 256), (5000, 256)])
def test_a_probe_is_at_most_a_quarter_of_the_test_set(n: int, expected: int | None, tmp_path: Path) -> None:
    probe = drawn(tmp_path / "probe.npz", n)
    assert (None if probe is None else len(probe.target)) == expected


def test_a_probe_of_large_examples_is_shorter(tmp_path: Path) -> None:
    probe = drawn(tmp_path / "probe.npz", 1000, batch=8, width=200_000)  # 0.8 MB each
    assert probe is not None
    assert len(probe.target) == 79
    assert drawn(tmp_path / "none.npz", 8, batch=1, width=20_000_000) is None
    assert not (tmp_path / "none.npz").exists()


def test_the_same_examples_are_drawn_however_they_stream_by(tmp_path: Path) -> None:
    for name, batch in (("a.npz", 7), ("b.npz", 1000)):
        drawn(tmp_path / name, 2000, batch)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_hopeless_candidate_is_given_up_after_tens_of_examples(tmp_path: Path) -> None:
    probe, calls = probe_of(tmp_path), list[int]()
    found = hopeless(answering(0.1, calls), probe, TOP1, max_drop=0.01)

    assert found is not None
    part, answers = found
    assert len(part.target) == len(answers["logits"]) == sum(calls) <= 3 * BATCH
    np.testing.assert_array_equal(part.example, probe.example[: sum(calls)])


def test_a_candidate_within_the_margin_is_never_given_up(tmp_path: Path) -> None:
    probe, calls = probe_of(tmp_path), list[int]()
    assert hopeless(answering(1.0, calls), probe, TOP1, max_drop=0.01) is None
    assert sum(calls) == 256
    assert hopeless(answering(0.1), probe, TOP1, max_drop=0.95) is None


def comparison_of(found: tuple[Probe, Arrays], folder: Path) -> Comparison:
    part, answers = found
    save_predictions(folder / "reference.npz", part.outputs, part.target)
    save_predictions(folder / "candidate.npz", answers, part.target)
    return compare(TOP1, folder / "reference.npz", folder / "candidate.npz", 0.95)


def test_a_given_up_candidate_fails_by_what_the_test_concluded(tmp_path: Path) -> None:
    found = hopeless(answering(0.1), probe_of(tmp_path), TOP1, max_drop=0.02)
    assert found is not None
    whole = comparison_of(found, tmp_path)
    told = given_up(whole, found[0].example, available=2000)

    n = len(found[0].target)
    assert (told.accuracy.n, told.accuracy.available, told.parity.n) == (n, 2000, n)
    assert told.accuracy.method == f"betting e-process on {n} random examples (Waudby-Smith & Ramdas 2020)"
    assert 0.02 < told.accuracy.drop_lower < told.accuracy.drop < told.accuracy.drop_upper == 1
    # At its own, higher confidence the sequential bound has to be wider than the one that may be looked at once.
    assert told.accuracy.drop_lower < whole.accuracy.drop_lower
    assert accuracy_gate(AccuracyParams(max_drop=0.02), told.accuracy).verdict is Verdict.FAIL
    assert told.scores is not None
    np.testing.assert_array_equal(told.scores["example"], found[0].example)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"logits": np.zeros((BATCH, 9))}, r"'logits' has shape \(16, 9\) in the candidate"),
        ({"other": np.zeros((BATCH, 10))}, "'logits' is missing"),
        ({"logits": np.full((BATCH, 10), np.nan)}, "NaN in 16 of 16 examples"),
    ],
)
def test_answers_that_cannot_be_scored_are_rejected_at_the_first_batch(
    answer: Arrays, message: str, tmp_path: Path
) -> None:
    with pytest.raises(RejectedError, match=message):
        hopeless(lambda inputs: answer, probe_of(tmp_path), TOP1, 0.01)
