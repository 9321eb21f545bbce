from __future__ import annotations

import itertools
import sys
import types

import numpy as np
import pytest
from numpy.typing import NDArray

from slipway.errors import BadInputError, RejectedError
from slipway.measure.arrays import Array, Joined
from slipway.measure.metrics import metric

LOGITS = np.array([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0], [1.0, 2.0, 9.0], [4.0, 3.0, 0.0]], dtype=np.float32)
LABELS = np.array([0, 2, 2, 1])


def value(name: str, outputs: Array, target: Array) -> float:
    """The metric over all examples, seen at once."""
    return metric(name).value(metric(name).kept(outputs, target))


def pairwise_auroc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """The definition: how often a positive beats a negative, half for a tie."""
    pairs = itertools.product(scores[positive], scores[~positive])
    return float(np.mean([(p > q) + 0.5 * (p == q) for p, q in pairs]))


def test_top1_is_a_score_of_one_or_zero_per_example() -> None:
    scores = metric("top1").scores(metric("top1").kept(LOGITS, LABELS))
    assert scores is not None
    assert scores.tolist() == [1, 0, 1, 0]
    assert value("top1", LOGITS, LABELS) == 0.5


@pytest.mark.parametrize(("k", "share"), [(1, 0.5), (2, 1.0), (3, 1.0)])
def test_topk_counts_labels_among_the_k_highest(k: int, share: float) -> None:
    assert value(f"topk:{k}", LOGITS, LABELS) == share


def test_equal_scores_go_to_the_lower_class_as_argmax_has_it() -> None:
    outputs = np.zeros((3, 3))
    assert value("top1", outputs, np.array([0, 1, 2])) == pytest.approx(1 / 3)
    assert value("topk:2", outputs, np.array([0, 1, 2])) == pytest.approx(2 / 3)


def test_macro_f1_averages_over_the_classes_that_occur() -> None:
    # Answers 0 1 2 0, labels 0 2 2 1: class 0 has F1 2/3, class 1 has 0, class 2 has 2/3; class 3 never occurs.
    outputs = np.hstack([LOGITS, np.full((4, 1), -1.0)])
    assert value("macro_f1", outputs, LABELS) == pytest.approx(4 / 9)


@pytest.mark.parametrize("shape", [(40,), (40, 1)])
def test_binary_auroc_counts_ties_half(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(5, size=40).astype(np.float64)
    labels = rng.integers(2, size=40)
    assert value("auroc", scores.reshape(shape), labels) == pytest.approx(pairwise_auroc(scores, labels == 1))


def test_auroc_of_two_columns_compares_their_difference() -> None:
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(50, 2)), rng.integers(2, size=50)
    softmax = np.exp(logits[:, 1]) / np.exp(logits).sum(axis=1)
    assert value("auroc", logits, labels) == pytest.approx(pairwise_auroc(softmax, labels == 1))


def test_auroc_of_classes_is_the_mean_of_one_against_the_rest_over_those_that_occur() -> None:
    rng = np.random.default_rng(2)
    outputs, labels = rng.normal(size=(60, 4)), rng.integers(3, size=60)
    expected = np.mean([pairwise_auroc(outputs[:, label], labels == label) for label in range(3)])
    assert value("auroc", outputs, labels) == pytest.approx(expected)


def test_auroc_of_one_class_is_undefined() -> None:
    with pytest.raises(BadInputError, match="at least two classes"):
        value("auroc", np.arange(3.0), np.zeros(3, dtype=int))


@pytest.mark.parametrize("name", ["top1", "macro_f1", "auroc"])
def test_a_statistic_on_a_resample_is_the_value_of_the_resample(name: str) -> None:
    rng = np.random.default_rng(3)
    outputs, labels = rng.normal(size=(50, 3)), rng.integers(3, size=50)
    resample = rng.integers(50, size=50)
    of_indices = metric(name).statistic(metric(name).kept(outputs, labels))(resample)
    assert of_indices == pytest.approx(value(name, outputs[resample], labels[resample]))


def test_errors_do_not_broadcast_a_column_against_a_row() -> None:
    outputs, target = np.array([[1.0], [2.0], [3.0]]), np.array([1.0, 4.0, 3.0])
    assert value("mae", outputs, target) == pytest.approx(2 / 3)
    assert value("rmse", outputs, target) == pytest.approx(np.sqrt(4 / 3))


def test_cosine_is_per_example_and_zero_for_a_zero_vector() -> None:
    outputs = np.array([[1.0, 0.0], [3.0, 3.0], [0.0, 0.0]])
    target = np.array([[2.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    scores = metric("cosine").scores(metric("cosine").kept(outputs, target))
    assert scores is not None
    assert scores.tolist() == pytest.approx([1.0, np.sqrt(0.5), 0.0])


@pytest.mark.parametrize(
    ("name", "kind", "higher"),
    [
        ("top1", "binary", True),
        ("topk:5", "binary", True),
        ("macro_f1", "set", True),
        ("auroc", "set", True),
        ("mae", "mean", False),
        ("rmse", "set", False),
        ("cosine", "mean", True),
    ],
)
def test_each_metric_tells_its_kind_and_direction(name: str, kind: str, higher: bool) -> None:
    assert (metric(name).kind, metric(name).higher_is_better) == (kind, higher)


def test_only_a_set_metric_has_no_scores() -> None:
    assert metric("macro_f1").scores(metric("macro_f1").kept(LOGITS, LABELS)) is None


@pytest.mark.parametrize("name", ["top1", "topk:2", "macro_f1", "auroc", "mae", "rmse", "cosine"])
@pytest.mark.parametrize("sizes", [[50], [1] * 50, [7, 40, 3]])
def test_a_metric_does_not_depend_on_how_the_examples_are_cut(name: str, sizes: list[int]) -> None:
    rng = np.random.default_rng(4)
    outputs = rng.normal(size=(50, 3)).astype(np.float32)
    classes = metric(name).kind == "binary" or name in {"macro_f1", "auroc"}
    target = rng.integers(3, size=50) if classes else rng.normal(size=(50, 3))
    kept = Joined(50)
    for end, size in zip(np.cumsum(sizes), sizes, strict=True):
        kept.add(*metric(name).kept(outputs[end - size : end], target[end - size : end]))

    assert metric(name).value(kept.arrays) == value(name, outputs, target)


@pytest.mark.parametrize(
    ("name", "most_bytes"), [("top1", 8), ("topk:5", 8), ("mae", 8), ("rmse", 8), ("cosine", 8), ("macro_f1", 16)]
)
def test_what_a_metric_keeps_of_an_example_is_small_however_large_its_outputs(name: str, most_bytes: int) -> None:
    labels, outputs = np.zeros(10, np.int64), np.ones((10, 1000), np.float32)
    target = outputs if name in {"mae", "rmse", "cosine"} else labels

    assert sum(array.nbytes for array in metric(name).kept(outputs, target)) == 10 * most_bytes


def test_an_own_function_is_called_with_outputs_and_target(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("own_metrics")
    module.__dict__["total"] = lambda outputs, target: outputs.sum() + target.sum()
    module.__dict__["nothing"] = lambda outputs, target: np.nan
    module.__dict__["broken"] = lambda outputs, target: outputs["x"]
    monkeypatch.setitem(sys.modules, "own_metrics", module)
    found = metric("own_metrics:total")
    assert (found.kind, found.higher_is_better) == ("set", True)
    assert value("own_metrics:total", np.ones((2, 2)), np.array([1, 2])) == 7.0
    with pytest.raises(BadInputError, match="gave NaN"):
        value("own_metrics:nothing", np.ones(2), np.ones(2))
    with pytest.raises(BadInputError, match="failed: IndexError"):
        value("own_metrics:broken", np.ones(2), np.ones(2))


@pytest.mark.parametrize("name", ["no_such_package:f", "math:no_such_function", "math:pi", ":f"])
def test_an_own_function_that_cannot_be_had_is_bad_input(name: str) -> None:
    with pytest.raises(BadInputError, match=name):
        metric(name)


def test_an_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(BadInputError, match="did you mean 'macro_f1'"):
        metric("macrof1")


@pytest.mark.parametrize("name", ["topk:", "topk:0", "topk:-1", "topk:five", "topk:²"])
def test_topk_needs_a_whole_number(name: str) -> None:
    with pytest.raises(BadInputError, match="whole number"):
        metric(name)


@pytest.mark.parametrize(
    ("name", "outputs", "target", "message"),
    [
        ("top1", LOGITS, np.array([0, 1, 2, 3]), r"found 0\.\.3"),
        ("top1", LOGITS, np.array([0, 1, 2, -1]), r"found -1\.\.2"),
        ("top1", LOGITS, LABELS.astype(np.float32), "whole numbers"),
        ("top1", LOGITS, np.eye(4, dtype=int), "one per example"),
        ("top1", LOGITS[:, 0], LABELS, "classes >= 2"),
        ("topk:4", LOGITS, LABELS, "always right"),
        ("top1", LOGITS[:3], LABELS, "found 3 and 4"),
        ("top1", LOGITS[:0], LABELS[:0], "empty set"),
        ("mae", LOGITS, LABELS, "differ in size"),
        ("rmse", np.zeros(2), np.array([0.0, np.inf]), "target holds NaN"),
    ],
)
def test_what_does_not_fit_is_bad_input(
    name: str, outputs: NDArray[np.generic], target: NDArray[np.generic], message: str
) -> None:
    with pytest.raises(BadInputError, match=message):
        value(name, outputs, target)


def test_nan_in_outputs_rejects_and_tells_how_many_examples() -> None:
    outputs = LOGITS.copy()
    outputs[0, 0] = outputs[0, 1] = outputs[3, 2] = np.nan
    with pytest.raises(RejectedError, match="NaN in 2 of 4 examples"):
        value("top1", outputs, LABELS)


def test_infinite_errors_reject() -> None:
    with pytest.raises(RejectedError, match="infinite in 1 of 2"):
        value("mae", np.array([np.inf, 0.0]), np.zeros(2))
