from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pytest

from slipway.errors import BadInputError, TamperedError
from slipway.stores.mlflow_registry import MlflowRegistry
from tests.unit.steps.material import Material, answers, images


@pytest.fixture
def downloaded(registry: MlflowRegistry, tmp_path: Path) -> Path:
    return registry.download(registry.resolve("models:/tiny.x86/2"), tmp_path)


def predict(model: Any, inputs: Any) -> np.ndarray:
    outputs = model.predict(inputs)
    assert list(outputs) == ["logits"]
    logits: np.ndarray = outputs["logits"]
    return logits


def test_mlflow_answers_as_the_model_by_name_and_by_array(
    registry: MlflowRegistry, material: Material, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """By alias, as a person would load it, and without a word about it."""
    mlflow.set_tracking_uri(registry.tracking_uri)
    try:
        model = mlflow.pyfunc.load_model("models:/tiny.x86@champion")
    finally:
        mlflow.set_tracking_uri(None)
    inputs = images(5)
    expected = answers(material.module, inputs)

    np.testing.assert_allclose(predict(model, {"image": inputs}), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(predict(model, inputs), expected, rtol=1e-4, atol=1e-5)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert capfd.readouterr() == ("", "")


def test_an_engine_that_is_a_directory_is_served_too(
    registry: MlflowRegistry, material: Material, tmp_path: Path
) -> None:
    directory = registry.download(registry.resolve("models:/tiny.x86/1"), tmp_path)
    inputs = images(5)

    found = predict(mlflow.pyfunc.load_model(str(directory)), inputs)
    np.testing.assert_allclose(found, answers(material.module, inputs), rtol=1e-4, atol=1e-5)


def test_a_changed_engine_file_is_never_run(downloaded: Path) -> None:
    (file,) = downloaded.rglob("engine.onnx")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)

    with pytest.raises(TamperedError, match=r"engine\.onnx is not the engine file of its evidence; register"):
        mlflow.pyfunc.load_model(str(downloaded))


def test_an_array_that_the_engine_does_not_take_is_bad_input(downloaded: Path) -> None:
    model = mlflow.pyfunc.load_model(str(downloaded)).unwrap_python_model()

    with pytest.raises(BadInputError, match=r"^the model takes image float32"):
        model.predict(None, {"image": images(2).astype(np.float64)})
    with pytest.raises(BadInputError, match=r"^the model takes image float32"):
        model.predict(None, {"picture": images(2)})


def test_one_array_for_an_engine_of_several_inputs_is_bad_input(downloaded: Path) -> None:
    model = mlflow.pyfunc.load_model(str(downloaded)).unwrap_python_model()

    class TwoInputs:
        inputs = (*model._session.inputs, *model._session.inputs)

    model._session = TwoInputs()
    with pytest.raises(BadInputError, match="this engine takes 2 inputs; give a dictionary of image, image"):
        model.predict(None, images(2))
