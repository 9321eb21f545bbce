from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from slipway.config import AccuracyParams
from slipway.errors import RejectedError
from slipway.exports.program import export_program
from slipway.measure.accuracy import load_predictions
from slipway.records import Built, Form
from slipway.steps.validate import evaluate_reference, validate
from tests.unit.steps.material import EXAMPLES, SIGNATURE, WRONG_LABELS, Material, answers, images, tiny_module
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
    outputs, _ = load_predictions(material.objects.path(done.predictions))
    np.testing.assert_allclose(outputs["logits"], answers(module, images(EXAMPLES)), rtol=1e-4, atol=1e-4)


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
