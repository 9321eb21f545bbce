from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from slipway.config import load_params
from slipway.errors import BadInputError
from slipway.examples import EXAMPLES, example, example_of

ROOT = Path(__file__).parents[3]


def test_an_unknown_example_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(
        BadInputError, match=r"'digit', did you mean 'digits'\?; known: digits, cifar10, fashion, ecg5000"
    ):
        example("digit")


@pytest.mark.parametrize("name", EXAMPLES)
def test_finding_an_example_imports_nothing_heavy(name: str) -> None:
    heavy = ["torch", "sklearn", "mlflow", "dvc", "PIL"]
    code = f"""if True:
        import sys
        from slipway.examples import example
        example({name!r})
        print([module for module in {heavy} if module in sys.modules])"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "max_drop"), [("digits", 0.01), ("cifar10", 0.005), ("fashion", 0.005), ("ecg5000", 0.01)]
)
def test_the_parameters_describe_a_release_of_the_example(name: str, max_drop: float) -> None:
    found = example(name)
    params = load_params(ROOT / found.params)
    assert params.model == f"models:/{found.model_name}/1"
    assert params.data.test == Path("data", name, "test")
    assert params.data.calibration == Path("data", name, "calibration")
    assert params.accuracy.max_drop == max_drop
    assert {"fp32", "int8-static"} <= set(params.variants)
    assert params.targets["x86"].engines == ("torch", "torchscript", "onnxruntime", "openvino")


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_known_by_its_model_and_by_its_data(name: str) -> None:
    params = load_params(ROOT / example(name).params)

    assert example_of(model=params.model) is example(name)
    assert example_of(data=params.data.test) is example(name)


def test_other_models_and_data_belong_to_no_example() -> None:
    assert example_of(model="models:/digits-resnet/2") is None
    assert example_of(model="models:/resnet@champion") is None
    assert example_of(data=Path("data/test")) is None
    assert example_of(data=Path("elsewhere/data/digits/test")) is None
