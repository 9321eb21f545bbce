from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from slipway.config import AccuracyParams
from slipway.decisions.gates import accuracy_gate
from slipway.engines import ENGINES
from slipway.engines.base import Arrays, RunOptions
from slipway.engines.onnxruntime import OnnxRuntimeEngine, OnnxRuntimeSession
from slipway.errors import BadInputError, RejectedError
from slipway.exports.program import export_program
from slipway.measure.arrays import read_arrays
from slipway.measure.predictions import load_predictions
from slipway.records import Built, DataSource, Form, Rebuild, Verdict
from slipway.steps.validate import evaluate_reference, validate
from tests.unit.steps.material import (
    EXAMPLES,
    SIGNATURE,
    WRONG_LABELS,
    Material,
    answers,
    images,
    tiny_module,
    write_data,
)
from tests.unit.steps.records import ACCURACY


def changed(material: Material, folder: Path, module: torch.nn.Module) -> Built:
    """A candidate of another program."""
    export_program(module, {"image": images(2)}, SIGNATURE, folder / "program.pt2")
    artifact = material.objects.put(folder / "program.pt2")
    return material.reference.model_copy(update={"artifact": artifact})


def test_the_reference_answers_the_whole_test_set_in_order(material: Material) -> None:
    found = material.predictions

    assert (found.metric, found.value, found.n) == ("top1", 1 - WRONG_LABELS / EXAMPLES, EXAMPLES)
    outputs, target = load_predictions(material.objects.path(found.artifact))
    np.testing.assert_allclose(outputs["logits"], answers(material.module, images(EXAMPLES)), atol=1e-5)
    assert len(target) == EXAMPLES


def test_the_policy_chooses_the_metric(material: Material) -> None:
    policy = AccuracyParams(metric="topk:10")

    assert evaluate_reference(material.objects, material.reference, material.data, policy, 1).value == 1


def test_an_engine_of_the_same_answers_loses_nothing(material: Material) -> None:
    built = material.built("fp32", "onnxruntime", Form.ONNX)
    done = validate(material.objects, built, material.data, material.predictions, ACCURACY, 1)

    assert (done.accuracy.value, done.accuracy.drop, done.accuracy.n) == (0.9, 0, EXAMPLES)
    assert (done.accuracy.flips, done.accuracy.discordant, done.accuracy.confidence) == (0, 0, 0.95)
    assert (done.parity.n, done.parity.top1_agreement) == (EXAMPLES, 1)
    assert done.parity.max_abs_diff < 1e-4
    assert sum(done.executed_precision.values()) == done.executed_precision["fp32"] > 0


def test_int8_is_told_as_executed_and_as_different(material: Material) -> None:
    built = material.built("int8-static", "onnxruntime", Form.ONNX)
    done = validate(material.objects, built, material.data, material.predictions, ACCURACY, 1)

    assert done.executed_precision["int8"] >= 3
    assert 1e-4 < done.parity.max_abs_diff < 1


def test_a_worse_model_is_compared_example_by_example(material: Material, tmp_path: Path) -> None:
    """It never answers class 5, which the reference sees in 17 examples."""
    module = copy.deepcopy(tiny_module())
    with torch.no_grad():
        module.head.bias[5] -= 1000
    built = changed(material, tmp_path, module)
    expected = answers(module, images(EXAMPLES)).argmax(1)
    reference = answers(material.module, images(EXAMPLES)).argmax(1)

    done = validate(material.objects, built, material.data, material.predictions, ACCURACY, 1)

    assert done.accuracy.flips == int((expected != reference).sum()) == 17
    assert done.accuracy.drop == pytest.approx(done.accuracy.reference_value - done.accuracy.value)
    assert done.accuracy.drop_lower > 0.1
    assert done.accuracy.worst_class is not None
    assert done.accuracy.worst_class.startswith("class 5: ")
    outputs, labels = load_predictions(material.objects.path(done.predictions))
    np.testing.assert_allclose(outputs["logits"], answers(module, images(EXAMPLES)), rtol=1e-4, atol=1e-4)
    (class_5,) = (one for one in done.accuracy.per_class if one.label == "5")
    assert (class_5.n, class_5.candidate) == (int(np.sum(labels == 5)), 0)
    assert sum(one.n for one in done.accuracy.per_class) == EXAMPLES
    assert done.scores is not None
    scores = read_arrays(material.objects.path(done.scores))
    np.testing.assert_array_equal(scores["candidate"], expected == labels)
    np.testing.assert_array_equal(scores["target"], labels)


def test_outputs_of_nan_are_rejected(material: Material, tmp_path: Path) -> None:
    module = copy.deepcopy(tiny_module())
    with torch.no_grad():
        module.head.bias[3] = torch.nan
    built = changed(material, tmp_path, module)

    with pytest.raises(
        RejectedError, match=rf"^output 'logits' holds NaN or infinity in {EXAMPLES} of {EXAMPLES * 10}"
    ):
        validate(material.objects, built, material.data, material.predictions, ACCURACY, 1)


def test_outputs_of_another_shape_are_rejected(material: Material, tmp_path: Path) -> None:
    module = copy.deepcopy(tiny_module())
    module.head = torch.nn.Linear(16, 9)
    built = changed(material, tmp_path, module.eval())

    with pytest.raises(RejectedError, match=r"output 'logits' has shape \(60, 9\) in the candidate"):
        validate(material.objects, built, material.data, material.predictions, ACCURACY, 1)


def test_further_builds_are_validated_as_well(material: Material, tmp_path: Path) -> None:
    """Here one that never answers class 5; what is told of the candidate is the kept one's."""
    module = copy.deepcopy(tiny_module())
    with torch.no_grad():
        module.head.bias[5] -= 1000
    other = changed(material, tmp_path, module)
    built = material.reference.model_copy(update={"rebuilds": (other.artifact,)})

    done = validate(material.objects, built, material.data, material.predictions, ACCURACY, 1)

    alone = validate(material.objects, other, material.data, material.predictions, ACCURACY, 1)
    assert (done.accuracy.value, done.accuracy.drop) == (0.9, 0)
    assert alone.accuracy.value < 0.9
    (rebuild,) = done.rebuilds
    assert rebuild == Rebuild(
        digest=other.artifact.digest, size_bytes=other.artifact.size_bytes, accuracy=alone.accuracy.value
    )


def test_a_further_build_whose_answers_are_unusable_fails_the_candidate(material: Material, tmp_path: Path) -> None:
    module = copy.deepcopy(tiny_module())
    with torch.no_grad():
        module.head.bias[3] = torch.nan
    other = changed(material, tmp_path, module)
    built = material.reference.model_copy(update={"rebuilds": (other.artifact,)})

    with pytest.raises(RejectedError, match=r"^another build \([0-9a-f]{12}\) is not like the first: output 'logits'"):
        validate(material.objects, built, material.data, material.predictions, ACCURACY, 1)


class FirstBatchSession(OnnxRuntimeSession):
    """Always answers class 0 to a batch of 4, the one that it has code of its own for."""

    def _run(self, arrays: Arrays) -> dict[str, np.ndarray]:
        logits = np.array(super()._run(arrays)["logits"])
        logits[:, 0] += 1000 * (len(logits) == 4)
        return {"logits": logits}


class FirstBatchEngine(OnnxRuntimeEngine):
    """ONNX Runtime, with such code."""

    def load(self, path: Path, options: RunOptions) -> FirstBatchSession:
        session = super().load(path, options)
        return FirstBatchSession(path, session._session)


@pytest.fixture
def with_own_code(material: Material, monkeypatch: pytest.MonkeyPatch) -> Built:
    """A candidate whose code for batches of 4 is wrong, and all other code right."""
    monkeypatch.setitem(ENGINES, "first-batch", f"{__name__}:FirstBatchEngine")
    built = material.built("fp32", "onnxruntime", Form.ONNX)
    spec = built.spec.model_copy(update={"engine": "first-batch"})
    return built.model_copy(update={"spec": spec, "options": built.options | {"first_batch": 4}})


def test_the_code_for_the_first_batch_size_is_what_is_validated(material: Material, with_own_code: Built) -> None:
    """Of the two shards of 30 examples, the last 2 of each make a smaller batch, which other code answers."""
    done = validate(material.objects, with_own_code, material.data, material.predictions, ACCURACY, 1)

    right = answers(material.module, images(EXAMPLES))
    expected = right.copy()
    expected[np.arange(EXAMPLES) % 30 < 28, 0] += 1000
    outputs, _ = load_predictions(material.objects.path(done.predictions))
    np.testing.assert_allclose(outputs["logits"], expected, rtol=1e-4, atol=1e-4)
    assert done.accuracy.flips == int((expected.argmax(1) != right.argmax(1)).sum()) > 10
    elsewhere = with_own_code.model_copy(update={"options": {}})
    assert validate(material.objects, elsewhere, material.data, material.predictions, ACCURACY, 1).accuracy.flips == 0


def test_a_probe_is_answered_by_the_code_for_the_first_batch_size(
    material: Material, many: DataSource, with_own_code: Built
) -> None:
    reference = evaluate_reference(material.objects, material.reference, many, ACCURACY, 1)

    done = validate(material.objects, with_own_code, many, reference, ACCURACY, 1, give_up_drop=ACCURACY.max_drop)

    assert (done.accuracy.given_up, done.accuracy.available) == (True, 400)


def of_one_class(folder: Path, material: Material) -> Built:
    """A candidate that knows class 0 alone."""
    module = copy.deepcopy(tiny_module())
    with torch.no_grad():
        module.head.bias[0] += 1000
    return changed(material, folder, module)


@pytest.fixture
def many(material: Material, tmp_path: Path) -> DataSource:
    """400 examples, all labelled as the reference answers them."""
    inputs = images(400, seed=5)
    return write_data(tmp_path / "many", inputs, answers(material.module, inputs).argmax(1))


def asked_alone(built: Built, material: Material, inputs: np.ndarray) -> np.ndarray:
    with OnnxRuntimeEngine().load(material.objects.path(built.artifact), RunOptions()) as session:
        return np.concatenate([session.infer({"image": one[np.newaxis]})["logits"] for one in inputs])


@pytest.mark.parametrize("variant", ["fp32", "int8-dynamic"])
def test_a_few_examples_are_kept_with_what_this_engine_answers_to_each_alone(material: Material, variant: str) -> None:
    """To the bit; the scales of int8-dynamic depend on what else is in a batch."""
    built = material.built(variant, "onnxruntime", Form.ONNX)

    done = validate(material.objects, built, material.data, material.predictions, ACCURACY, 1)

    assert done.example is not None
    assert done.notes == ()
    arrays = read_arrays(material.objects.path(done.example))
    assert list(arrays) == ["input:image", "output:logits", "target"]
    assert len(arrays["target"]) == 8
    places = [int(np.nonzero((images(EXAMPLES) == one).all((1, 2, 3)))[0][0]) for one in arrays["input:image"]]
    _, labels = load_predictions(material.objects.path(material.predictions.artifact))
    np.testing.assert_array_equal(arrays["target"], labels[places])
    assert set(arrays["target"].tolist()) == set(labels.tolist()), "there are 7 classes"
    np.testing.assert_array_equal(arrays["output:logits"], asked_alone(built, material, arrays["input:image"]))


def test_the_same_engine_keeps_the_same_bytes(material: Material) -> None:
    built = material.built("fp32", "onnxruntime", Form.ONNX)
    reference = evaluate_reference(material.objects, material.reference, material.data, ACCURACY, 1)

    assert reference.example == material.predictions.example
    done = [validate(material.objects, built, material.data, reference, ACCURACY, 1) for _ in range(2)]
    assert done[0].example == done[1].example != None  # noqa: E711 - not None either


def test_examples_too_large_to_be_kept_are_told(material: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slipway.measure.example.MOST_BYTES_OF_ONE", 3000)
    reference = evaluate_reference(material.objects, material.reference, material.data, ACCURACY, 1)
    done = validate(material.objects, material.reference, material.data, reference, ACCURACY, 1)

    assert (reference.example, done.example) == (None, None)
    assert done.notes == (reference.no_example,) == ("no example is kept: one takes 0.0 MB, more than 0.003",)


def test_a_hopeless_candidate_is_given_up_after_tens_of_examples(
    material: Material, many: DataSource, tmp_path: Path
) -> None:
    reference = evaluate_reference(material.objects, material.reference, many, ACCURACY, 1)
    built = of_one_class(tmp_path, material)

    done = validate(material.objects, built, many, reference, ACCURACY, 1, give_up_drop=ACCURACY.max_drop)

    n = done.accuracy.n
    assert n <= 48
    assert (done.accuracy.available, done.parity.n) == (400, n)
    assert accuracy_gate(ACCURACY, done.accuracy).verdict is Verdict.FAIL
    assert done.accuracy.drop > 0.5
    assert done.scores is not None
    scores = read_arrays(material.objects.path(done.scores))
    outputs, target = load_predictions(material.objects.path(done.predictions))
    assert len(scores["example"]) == len(target) == len(outputs["logits"]) == n
    inputs = images(400, seed=5)[scores["example"]]
    np.testing.assert_allclose(outputs["logits"][:, 1:], answers(material.module, inputs)[:, 1:], atol=1e-4)


def test_nothing_is_given_up_unless_asked_for_and_never_a_good_candidate(
    material: Material, many: DataSource, tmp_path: Path
) -> None:
    reference = evaluate_reference(material.objects, material.reference, many, ACCURACY, 1)
    good, bad = material.built("fp32", "onnxruntime", Form.ONNX), of_one_class(tmp_path, material)

    kept = validate(material.objects, good, many, reference, ACCURACY, 1, give_up_drop=ACCURACY.max_drop)
    assert (kept.accuracy.n, kept.accuracy.drop) == (400, 0)
    assert validate(material.objects, bad, many, reference, ACCURACY, 1).accuracy.n == 400
    assert validate(material.objects, bad, many, reference, ACCURACY, 1, give_up_drop=0.95).accuracy.n == 400


def test_a_metric_without_scores_of_0_and_1_has_no_probe(material: Material) -> None:
    policy = AccuracyParams(metric="macro_f1")
    assert material.predictions.probe is not None
    reference = evaluate_reference(material.objects, material.reference, material.data, policy, 1)
    assert reference.probe is None

    built = material.built("fp32", "onnxruntime", Form.ONNX)
    done = validate(material.objects, built, material.data, reference, policy, 1, give_up_drop=0.01)
    assert (done.accuracy.metric, done.accuracy.n, done.scores) == ("macro_f1", EXAMPLES, None)


def test_a_label_that_is_none_of_the_classes_is_told_with_its_file(material: Material, tmp_path: Path) -> None:
    labels = np.zeros(10, np.int64)
    labels[7] = 10
    data = write_data(tmp_path / "test", images(10), labels)

    with pytest.raises(
        BadInputError,
        match=r"^metric 'top1' cannot score array 'target' of .*/shard-00001\.npz: labels must lie in 0\.\.9",
    ):
        evaluate_reference(material.objects, material.reference, data, ACCURACY, 1)


def test_a_reference_that_answers_nan_is_bad_input(material: Material, tmp_path: Path) -> None:
    module = copy.deepcopy(tiny_module())
    with torch.no_grad():
        module.head.bias[3] = torch.nan
    built = changed(material, tmp_path, module)

    with pytest.raises(BadInputError, match="the reference itself cannot be scored: outputs hold NaN"):
        evaluate_reference(material.objects, built, material.data, ACCURACY, 1)
