from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from slipway.errors import BadInputError, RejectedError
from slipway.measure.accuracy import compare, load_predictions, predict, save_predictions
from slipway.measure.arrays import Array, Arrays, write_arrays
from slipway.measure.metrics import metric

N = 200


def logits(answers: NDArray[np.intp], classes: int = 4) -> dict[str, Array]:
    return {"logits": np.eye(classes, dtype=np.float32)[answers]}


def labels_and_answers(wrong: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Labels 0 1 2 3 0 ..., and answers that are wrong for the first ``wrong`` examples of class 3."""
    labels = np.arange(N) % 4
    answers = labels.copy()
    answers[np.flatnonzero(labels == 3)[:wrong]] = 0
    return labels, answers


def test_predict_concatenates_outputs_and_targets_in_order() -> None:
    batches = [({"x": np.full(size, size)}, np.arange(size)) for size in (2, 3)]
    outputs, target = predict(lambda inputs: {"y": inputs["x"] * 10, "z": inputs["x"][:, None]}, batches)
    assert list(outputs) == ["y", "z"]
    assert outputs["y"].tolist() == [20, 20, 30, 30, 30]
    assert outputs["z"].shape == (5, 1)
    assert target.tolist() == [0, 1, 0, 1, 2]


def test_predict_copies_since_an_engine_may_answer_in_one_buffer() -> None:
    buffer = np.zeros(2)

    def infer(inputs: Arrays) -> Arrays:
        buffer[:] = inputs["x"]
        return {"y": buffer}

    outputs, _ = predict(infer, [({"x": np.full(2, value)}, np.zeros(2)) for value in (1.0, 2.0)])
    assert outputs["y"].tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([], BadInputError, "empty set"),
        ([({"x": np.zeros(0)}, np.zeros(0))], BadInputError, "empty set"),
        ([({"x": np.zeros(3)}, np.zeros(2))], RejectedError, "not batch first"),
        ([({"x": np.zeros((2, 3))}, np.zeros(2)), ({"x": np.zeros((2, 4))}, np.zeros(2))], RejectedError, "change"),
    ],
)
def test_predict_refuses_what_cannot_be_put_together(
    batches: list[tuple[Arrays, Array]], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        predict(lambda inputs: {"y": inputs["x"]}, batches)


def test_predictions_survive_the_disk_in_order_and_with_names_that_clash(tmp_path: Path) -> None:
    outputs: dict[str, Array] = {"z/logits": np.ones((2, 3), np.float16), "target": np.arange(2), "file": np.zeros(2)}
    save_predictions(tmp_path / "p.npz", outputs, np.array([5, 6]))
    found, target = load_predictions(tmp_path / "p.npz")
    assert list(found) == list(outputs)
    assert all(found[name].dtype == outputs[name].dtype for name in outputs)
    assert target.tolist() == [5, 6]


def test_equal_predictions_have_equal_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for path in paths:
        save_predictions(path, {"y": np.arange(1000.0)}, np.arange(1000))
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("content", [b"", b"not an archive"])
def test_a_file_that_holds_no_arrays_is_bad_input(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.npz").write_bytes(content)
    with pytest.raises(BadInputError, match="cannot read arrays"):
        load_predictions(tmp_path / "p.npz")


def test_a_missing_file_and_a_file_without_target_are_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="cannot read arrays"):
        load_predictions(tmp_path / "none.npz")
    write_arrays(tmp_path / "other.npz", {"y": np.zeros(2)})
    with pytest.raises(BadInputError, match="not outputs and a target"):
        load_predictions(tmp_path / "other.npz")


def test_pickled_objects_are_refused_both_ways(tmp_path: Path) -> None:
    objects = np.array([object()], dtype=object)
    with pytest.raises(ValueError, match="Object arrays"):
        save_predictions(tmp_path / "p.npz", {"y": objects}, np.zeros(1))
    np.savez(tmp_path / "p.npz", target=objects)
    with pytest.raises(BadInputError, match="cannot read arrays"):
        load_predictions(tmp_path / "p.npz")


def test_top1_loses_what_the_candidate_gets_wrong_and_names_the_class() -> None:
    labels, answers = labels_and_answers(wrong=5)
    found = compare(metric("top1"), (logits(labels), labels), logits(answers), 0.95)
    assert (found.reference_value, found.value, found.n) == (1.0, 0.975, N)
    assert found.drop == pytest.approx(0.025)
    assert found.drop_lower < 0.025 < found.drop_upper
    assert (found.flips, found.discordant) == (5, 5)
    assert found.worst_class == "class 3: 100.0% -> 90.0% (n=50)"
    assert found.method == "Tango score interval"


def test_a_flip_that_changes_no_score_is_a_flip_all_the_same() -> None:
    labels, _ = labels_and_answers(wrong=0)
    one, other = (labels + 1) % 4, (labels + 2) % 4
    found = compare(metric("top1"), (logits(one), labels), logits(other), 0.95)
    assert (found.drop, found.flips, found.discordant, found.worst_class) == (0.0, N, 0, None)


def test_a_candidate_that_answers_the_same_has_no_drop_but_an_uncertain_one() -> None:
    labels, answers = labels_and_answers(wrong=5)
    found = compare(metric("top1"), (logits(answers), labels), logits(answers), 0.95)
    assert found.drop == 0.0
    assert found.drop_lower < 0.0 < found.drop_upper


def test_where_lower_is_better_a_growing_error_is_a_drop() -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(size=N)
    reference: dict[str, Array] = {"y": target + rng.normal(scale=0.1, size=N)}
    worse: dict[str, Array] = {"y": target + rng.normal(scale=0.3, size=N)}
    for name in ("mae", "rmse"):
        found = compare(metric(name), (reference, target), worse, 0.95)
        assert found.drop == pytest.approx(found.value - found.reference_value)
        assert 0 < found.drop_lower < found.drop < found.drop_upper
        assert found.method == "paired BCa bootstrap"
        assert found.flips is None


@pytest.mark.parametrize("name", ["macro_f1", "auroc"])
def test_set_metrics_are_bounded_by_resampling(name: str) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=N)
    clean = np.eye(4)[labels] + rng.normal(scale=0.3, size=(N, 4))
    noisy = clean + rng.normal(scale=0.4, size=(N, 4))
    found = compare(metric(name), ({"y": clean}, labels), {"y": noisy}, 0.95)
    assert 0 < found.drop_lower < found.drop < found.drop_upper
    assert found.flips == int(np.sum(clean.argmax(axis=1) != noisy.argmax(axis=1)))
    assert found.discordant is None


def test_bounds_are_the_same_each_time() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=50)
    clean, noisy = rng.normal(size=50) + labels, rng.normal(size=50) + labels
    once, again = (compare(metric("auroc"), ({"y": clean}, labels), {"y": noisy}, 0.95) for _ in range(2))
    assert once == again


def test_the_output_compared_is_the_reference_s_first_one_by_name() -> None:
    labels, answers = labels_and_answers(wrong=5)
    reference = {**logits(labels), "aux": np.zeros((N, 4))}
    candidate = {"aux": np.zeros((N, 4)), **logits(answers)}
    assert compare(metric("top1"), (reference, labels), candidate, 0.95).value == 0.975


def test_candidates_that_cannot_be_compared_are_rejected() -> None:
    labels, _ = labels_and_answers(wrong=0)
    reference = (logits(labels), labels)
    broken = np.array(logits(labels)["logits"])
    broken[7] = np.nan
    for candidate, message in (
        ({"other": broken}, "'logits' is missing"),
        (logits(labels, classes=5), r"has shape \(200, 5\)"),
        ({"logits": broken}, "NaN in 1 of 200"),
    ):
        with pytest.raises(RejectedError, match=message):
            compare(metric("top1"), reference, candidate, 0.95)


def test_a_reference_that_answers_nan_is_no_fault_of_the_candidate() -> None:
    labels, _ = labels_and_answers(wrong=0)
    broken: dict[str, Array] = {"logits": np.full((N, 4), np.nan)}
    with pytest.raises(BadInputError, match="reference itself"):
        compare(metric("top1"), (broken, labels), logits(labels), 0.95)
