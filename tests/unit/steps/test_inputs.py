from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slipway.records import InputSummaries, Signature, TensorSpec
from slipway.steps.data import CheckedData
from slipway.steps.inputs import InputData, input_data, summarize_inputs
from slipway.stores.datasets import write_shards
from tasks.inputs import summarize_inputs as summarize_inputs_task
from tests.unit.steps.material import Material


def test_the_calibration_data_are_summarized_and_without_any_the_test_data(material: Material) -> None:
    checked = CheckedData(test=material.data, calibration=material.calibration)

    assert input_data(checked) == InputData(source="calibration", data=material.calibration)
    alone = checked.model_copy(update={"calibration": None})
    assert input_data(alone) == InputData(source="test", data=material.data)


def test_every_input_is_told_with_the_data_that_it_is_of(material: Material) -> None:
    read = InputData(source="calibration", data=material.calibration)

    artifact = summarize_inputs(material.objects, material.source.signature, read)

    assert artifact.name == "inputs.json"
    found = InputSummaries.model_validate_json(material.objects.path(artifact).read_text())
    assert (found.source, found.md5) == ("calibration", material.calibration.md5)
    (image,) = found.inputs
    assert (image.name, image.examples, image.n) == ("image", 32, 32 * 256)
    assert sum(image.shares) == pytest.approx(1)
    assert image.edges[0] < 0 < image.edges[-1]
    assert summarize_inputs_task.fn(material.objects, material.source.signature, read) == artifact, "byte for byte"


def test_each_input_has_its_own_bins(material: Material, tmp_path: Path) -> None:
    arrays = {"tokens": np.tile(np.arange(100), (30, 1)), "mask": np.ones((30, 100), np.int64)}
    write_shards(tmp_path / "data", arrays, np.zeros(30, np.int64), shard_size=20)
    data = material.data.model_copy(update={"path": str(tmp_path / "data")})
    inputs = tuple(TensorSpec(name=name, dtype="int64", shape=(-1, 100)) for name in arrays)

    artifact = summarize_inputs(
        material.objects, Signature(inputs=inputs, outputs=()), InputData(source="test", data=data)
    )

    found = InputSummaries.model_validate_json(material.objects.path(artifact).read_text())
    tokens, mask = found.inputs
    assert tokens.edges == tuple(range(9, 99, 10))
    assert mask.shares == (0, 1, 0)
