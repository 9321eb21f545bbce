"""Engine ``torch`` with its one setting, channels_last."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from slipway.engines import engine
from slipway.engines.base import BuildOptions, RunOptions
from slipway.engines.torch_archive import load_program
from slipway.errors import UnsupportedError
from slipway.records import Signature, TensorSpec

SIGNATURE = Signature(
    inputs=(TensorSpec(name="image", dtype="float32", shape=(-1, 3, 8, 8)),),
    outputs=(TensorSpec(name="scores", dtype="float32", shape=(-1, 5)),),
)


def options(**settings: bool) -> BuildOptions:
    return BuildOptions(variant="fp32", signature=SIGNATURE, settings=settings)


def test_channels_last_lays_the_weights_of_convolutions_anew_and_changes_no_answer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    example = torch.randn(2, 3, 8, 8)
    program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(program, tmp_path / "program.pt2")
    answers = {}
    for channels_last in (False, True):
        out = tmp_path / f"{channels_last}.pt2"
        told = engine("torch").build(tmp_path / "program.pt2", out, options(channels_last=channels_last))
        assert told == ({"channels_last": True} if channels_last else {})
        weight = load_program("torch", out).state_dict["0.weight"]
        assert weight.is_contiguous(memory_format=torch.channels_last) is channels_last
        with engine("torch").load(out, RunOptions()) as session:
            answers[channels_last] = session.infer({"image": example.numpy()})["scores"]
    np.testing.assert_allclose(answers[True], answers[False], rtol=1e-5, atol=1e-6)


def test_channels_last_is_refused_for_a_model_registered_as_torchscript(tmp_path: Path) -> None:
    source = tmp_path / "model.ts"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("model/constants.pkl", b"")
        archive.writestr("model/code/model.py", b"")
    with pytest.raises(UnsupportedError, match=r"channels_last: it is for torch\.export programs"):
        engine("torch").build(source, tmp_path / "out", options(channels_last=True))
