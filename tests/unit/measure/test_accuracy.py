from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from slipway.decisions.paired import bca_bounds
from slipway.errors import BadInputError, RejectedError
from slipway.measure import accuracy, classes
from slipway.measure.accuracy import Comparison, compare
from slipway.measure.arrays import Array, Arrays
from slipway.measure.metrics import metric
from slipway.measure.predictions import save_predictions
from slipway.records import ClassAccuracy

N = 200
Compared = Callable[..., Comparison]


@pytest.fixture
def compared(tmp_path: Path) -> Compared:
    """Compare predictions that are in memory, by way of their files."""

    def run(name: str, reference: tuple[Arrays, Array], candidate: Arrays) -> Comparison:
        save_predictions(tmp_path / "reference.npz", *reference)
        save_predictions(tmp_path / "candidate.npz", candidate, reference[1])
        return compare(metric(name), tmp_path / "reference.npz", tmp_path / "candidate.npz", 0.95)

    return run


def logits(answers: NDArray[np.intp], classes: int = 4) -> dict[str, Array]:
    return {"logits": np.eye(classes, dtype=np.float32)[answers]}


def labels_and_answers(wrong: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Labels 0 1 2 3 0 ..., and answers that are wrong for the first ``wrong`` examples of class 3."""
    labels = np.arange(N) % 4
    answers = labels.copy()
    answers[np.flatnonzero(labels == 3)[:wrong]] = 0
    return labels, answers


def test_top1_loses_what_the_candidate_gets_wrong_and_names_the_class(compared: Compared) -> None:
    labels, answers = labels_and_answers(wrong=5)
    found = compared("top1", (logits(labels), labels), logits(answers)).accuracy
    assert (found.reference_value, found.value, found.n) == (1.0, 0.975, N)
    assert found.drop == pytest.approx(0.025)
    assert found.drop_lower < 0.025 < found.drop_upper
    assert (found.flips, found.discordant) == (5, 5)
    assert found.worst_class == "class 3: 100.0% -> 90.0% (n=50)"
    assert found.method == "Tango score interval"
    assert found.per_class == (
        *(ClassAccuracy(label=str(label), n=50, reference=1.0, candidate=1.0) for label in range(3)),
        ClassAccuracy(label="3", n=50, reference=1.0, candidate=0.9),
    )


def test_a_flip_that_changes_no_score_is_a_flip_all_the_same(compared: Compared) -> None:
    labels, _ = labels_and_answers(wrong=0)
    one, other = (labels + 1) % 4, (labels + 2) % 4
    found = compared("top1", (logits(one), labels), logits(other)).accuracy
    assert (found.drop, found.flips, found.discordant, found.worst_class) == (0.0, N, 0, None)


def test_a_candidate_that_answers_the_same_has_no_drop_but_an_uncertain_one(compared: Compared) -> None:
    labels, answers = labels_and_answers(wrong=5)
    found = compared("top1", (logits(answers), labels), logits(answers)).accuracy
    assert found.drop == 0.0
    assert found.drop_lower < 0.0 < found.drop_upper


def test_where_lower_is_better_a_growing_error_is_a_drop(compared: Compared) -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(size=N)
    reference: dict[str, Array] = {"y": target + rng.normal(scale=0.1, size=N)}
    worse: dict[str, Array] = {"y": target + rng.normal(scale=0.3, size=N)}
    for name in ("mae", "rmse"):
        found = compared(name, (reference, target), worse).accuracy
        assert found.drop == pytest.approx(found.value - found.reference_value)
        assert 0 < found.drop_lower < found.drop < found.drop_upper
        assert found.method == "paired BCa bootstrap"
        assert found.flips is None


@pytest.mark.parametrize("name", ["macro_f1", "auroc"])
def test_set_metrics_are_bounded_by_resampling(name: str, compared: Compared) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=N)
    clean = np.eye(4)[labels] + rng.normal(scale=0.3, size=(N, 4))
    noisy = clean + rng.normal(scale=0.4, size=(N, 4))
    found = compared(name, ({"y": clean}, labels), {"y": noisy}).accuracy
    assert 0 < found.drop_lower < found.drop < found.drop_upper
    assert found.flips == int(np.sum(clean.argmax(axis=1) != noisy.argmax(axis=1)))
    assert found.discordant is None
    assert [(one.label, one.n) for one in found.per_class] == [(str(k), int(np.sum(labels == k))) for k in range(4)]
    assert found.per_class[2].candidate == np.mean(noisy[labels == 2].argmax(axis=1) == 2)


def test_of_too_many_classes_the_worst_alone_is_told(compared: Compared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classes, "MOST_CLASSES", 3)
    labels, answers = labels_and_answers(wrong=5)
    found = compared("top1", (logits(labels), labels), logits(answers)).accuracy
    assert (found.per_class, found.worst_class) == ((), "class 3: 100.0% -> 90.0% (n=50)")


@pytest.mark.parametrize("name", ["top1", "auroc", "macro_f1"])
def test_a_comparison_does_not_depend_on_how_the_files_are_cut(
    name: str, compared: Compared, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=N)
    clean = rng.normal(size=(N, 4))
    outputs = {"y": clean, "map": rng.normal(size=(N, 2, 2))}
    answers = {"y": clean + rng.normal(scale=0.1, size=(N, 4)), "map": outputs["map"] + 0.01}
    whole = compared(name, (outputs, labels), answers)
    for size in (1, 1000):
        monkeypatch.setattr(accuracy, "CHUNK_BYTES", size)
        cut = compared(name, (outputs, labels), answers)
        assert cut.accuracy == whole.accuracy
        assert cut.parity.model_dump() == pytest.approx(whole.parity.model_dump())


def test_kept_scores_compare_two_candidates_without_running_again(compared: Compared) -> None:
    labels, few = labels_and_answers(wrong=5)
    _, many = labels_and_answers(wrong=20)
    a, b = (compared("top1", (logits(labels), labels), logits(answers)).scores for answers in (few, many))
    assert a is not None
    assert b is not None
    assert {name: array.shape for name, array in a.items()} == dict.fromkeys(
        ["example", "reference", "candidate", "target"], (N,)
    )
    np.testing.assert_array_equal(a["target"], labels)
    np.testing.assert_array_equal(a["candidate"], few == labels)

    lower, upper = bca_bounds(np.asarray(a["candidate"] - b["candidate"]), 0.95)
    assert 0 < lower < 15 / N < upper


def test_scores_without_a_single_target_are_kept_without_one_and_those_of_a_set_metric_not_at_all(
    compared: Compared,
) -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(size=(N, 2))
    outputs: dict[str, Array] = {"y": target + rng.normal(size=(N, 2))}
    candidate: dict[str, Array] = {"y": target + rng.normal(size=(N, 2))}
    found = compared("mae", (outputs, target), candidate).scores
    assert found is not None
    assert list(found) == ["example", "reference", "candidate"]
    assert compared("rmse", (outputs, target), candidate).scores is None


def test_bounds_are_the_same_each_time(compared: Compared) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=50)
    clean, noisy = rng.normal(size=50) + labels, rng.normal(size=50) + labels
    once, again = (compared("auroc", ({"y": clean}, labels), {"y": noisy}).accuracy for _ in range(2))
    assert once == again


def test_the_output_compared_is_the_reference_s_first_one_by_name(compared: Compared) -> None:
    labels, answers = labels_and_answers(wrong=5)
    reference = {**logits(labels), "aux": np.zeros((N, 4))}
    candidate = {"aux": np.zeros((N, 4)), **logits(answers)}
    assert compared("top1", (reference, labels), candidate).accuracy.value == 0.975


def test_candidates_that_cannot_be_compared_are_rejected(compared: Compared) -> None:
    labels, _ = labels_and_answers(wrong=0)
    reference = (logits(labels), labels)
    broken = np.array(logits(labels)["logits"])
    broken[7] = np.nan
    for candidate, message in (
        ({"other": broken}, "'logits' is missing"),
        (logits(labels, classes=5), r"has shape \(200, 5\)"),
        ({"logits": broken}, "NaN or infinity in 4 of 800 values"),
    ):
        with pytest.raises(RejectedError, match=message):
            compared("top1", reference, candidate)


def test_a_reference_that_answers_nan_is_no_fault_of_the_candidate(compared: Compared) -> None:
    labels, _ = labels_and_answers(wrong=0)
    broken: dict[str, Array] = {"logits": np.full((N, 4), np.nan)}
    with pytest.raises(BadInputError, match="reference itself"):
        compared("top1", (broken, labels), logits(labels))
