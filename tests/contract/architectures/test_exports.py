"""Each architecture in each form: exported, alike to eager PyTorch, and loaded by who does not know this project."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from slipway.errors import BadInputError
from slipway.exports.program import export_program
from slipway.records import Exported, Form, Signature, TensorSpec
from tests.contract.architectures import stranger
from tests.contract.architectures.conftest import Journeys
from tests.contract.architectures.models import NAMES, SCRIPTED

BATCHES = (1, 2, 5)
MAX_ABS_DIFF = 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_is_fetched_as_it_was_registered(name: str, journeys: Journeys) -> None:
    journey = journeys(name)
    assert journey.source.format == ("torchscript" if name in SCRIPTED else "pt2")
    assert journey.source.signature == journey.architecture.signature


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("name", NAMES)
def test_is_exported_and_answers_as_eager_does(name: str, form: Form, journeys: Journeys) -> None:
    exported = journeys(name).exported(form)
    assert isinstance(exported, Exported), exported
    assert exported.parity is not None
    assert exported.parity.max_abs_diff < MAX_ABS_DIFF


class BatchFrozen(torch.nn.Module):
    """Takes the batch as a number of Python's, which registration then takes for a constant."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.ones(1, 4).expand(len(x), -1)


def test_a_batch_that_registration_froze_is_told_as_such(tmp_path: Path) -> None:
    arrays = {"x": np.zeros((2, 4), np.float32)}
    spec = TensorSpec(name="x", dtype="float32", shape=(-1, 4))
    signature = Signature(inputs=(spec,), outputs=(spec.model_copy(update={"name": "y"}),))
    # As MLflow registers: dynamic where it can be, and silently fixed where it cannot.
    program = torch.export.export(BatchFrozen(), (torch.zeros(2, 4),), dynamic_shapes=[{0: torch.export.Dim.AUTO}])
    with pytest.raises(BadInputError, match=r"runs on a batch of 2 and not of 3.*x\.shape\[0\]"):
        export_program(program.module(), arrays, signature, tmp_path / "model.pt2")


@pytest.mark.parametrize("form", Form)
def test_loads_and_answers_without_this_project(form: Form, journeys: Journeys, tmp_path: Path) -> None:
    """One interpreter for all architectures, in which neither this project nor, for ONNX, PyTorch can be imported."""
    # A ScriptModule has no program: its file of that form is TorchScript, and is read as such below.
    names = [name for name in NAMES if (form, name in SCRIPTED) != (Form.PROGRAM, True)]
    for name in names:
        journey, folder = journeys(name), tmp_path / name
        exported = journey.exported(form)
        assert isinstance(exported, Exported)
        folder.mkdir()
        shutil.copy(journey.objects.path(exported.artifact), folder / exported.artifact.name)
        for batch in BATCHES:
            np.savez(folder / f"inputs-{batch}.npz", **journey.architecture.arrays(batch, seed=batch))
    finished = subprocess.run(
        [sys.executable, "-I", "-W", "error", stranger.__file__, form, tmp_path],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")
    for name in names:
        architecture = journeys(name).architecture
        for batch in BATCHES:
            expected = architecture.answers(architecture.arrays(batch, seed=batch))
            with np.load(tmp_path / name / f"outputs-{batch}.npz") as found:
                for answer, value in zip(found.values(), expected.values(), strict=True):
                    np.testing.assert_allclose(answer, value, rtol=0, atol=MAX_ABS_DIFF)
