"""What is particular to the two PyTorch engines; the rest is their contract."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from slipway.engines import engine
from slipway.engines.base import BuildOptions, RunOptions
from slipway.engines.torch_eager import load_module
from slipway.engines.torch_session import TorchSession
from slipway.errors import BadInputError
from slipway.records import Signature, TensorSpec


def signature(*outputs: str) -> Signature:
    specs = tuple(TensorSpec(name=name, dtype="float32", shape=(-1, 3)) for name in ("x", *outputs))
    return Signature(inputs=specs[:1], outputs=specs[1:])


class Answers(nn.Module):
    """Returns whatever structure ``answer`` makes of its input."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: torch.Tensor) -> object:
        assert callable(self.answer)
        return self.answer(x)


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: (x, 2 * x),
        lambda x: [x, 2 * x],
        lambda x: (x, [2 * x]),
        lambda x: {"twice": 2 * x, "once": x},
        lambda x: {"first": x, "second": 2 * x},
    ],
    ids=["tuple", "list", "nested", "dict by name", "dict in order"],
)
def test_any_structure_maps_to_the_signatures_outputs(answer: object) -> None:
    ones = np.ones((2, 3), "float32")
    with TorchSession(Answers(answer), signature("once", "twice"), threads=1) as session:
        outputs = session.infer({"x": ones})
    np.testing.assert_array_equal(outputs["once"], ones)
    np.testing.assert_array_equal(outputs["twice"], 2 * ones)


def test_other_number_of_outputs_is_refused() -> None:
    with (
        TorchSession(Answers(lambda x: (x, x)), signature("once"), threads=1) as session,
        pytest.raises(BadInputError, match="returns 2 outputs, its signature names once"),
    ):
        session.infer({"x": np.ones((2, 3), "float32")})


def test_sessions_keep_their_own_thread_counts() -> None:
    """Reference and candidate run interleaved in one process, and a server calls from threads it did not load in."""
    seen = []

    def look(x: torch.Tensor) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return x

    one, two = (TorchSession(Answers(look), signature("y"), threads) for threads in (1, 2))
    arrays = {"x": np.ones((2, 3), "float32")}
    for session in (one, two, one):
        session.infer(arrays)
    elsewhere = threading.Thread(target=one.infer, args=(arrays,))
    elsewhere.start()
    elsewhere.join()
    assert seen == [1, 2, 1, 1]


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A model with dropout and batch-norm, saved as TorchScript in training mode, without a signature."""
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.9))
    path = tmp_path / "model.ts"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        torch.jit.script(module).save(path)
    return path


def test_torch_runs_a_model_registered_as_torchscript(script: Path, tmp_path: Path) -> None:
    """The file keeps the suffix ``.pt2`` that it is given: the content tells what it is."""
    out = tmp_path / "engine.pt2"
    engine("torch").build(script, out, BuildOptions(variant="fp32", signature=signature("y")))
    arrays = {"x": np.random.default_rng(0).standard_normal((4, 3)).astype("float32")}
    with engine("torch").load(out, RunOptions()) as session:
        outputs = session.infer(arrays)
    with torch.no_grad():
        expected = load_module(script)(torch.from_numpy(arrays["x"])).numpy()
    np.testing.assert_array_equal(outputs["y"], expected)


def test_torchscript_loads_in_evaluation_mode(script: Path) -> None:
    ones = torch.ones(4, 3)
    module = load_module(script)
    torch.testing.assert_close(module(ones), module(ones))


@pytest.mark.parametrize("name", ["torch", "torchscript"])
def test_file_that_no_engine_built_has_no_signature(name: str, script: Path) -> None:
    with pytest.raises(BadInputError, match=f"engine {name} wants an engine file with signature.json inside"):
        engine(name).load(script, RunOptions())
