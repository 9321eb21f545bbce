"""Run in an interpreter of its own, without this project: answer with exported files as their runtime loads them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

Arrays: TypeAlias = dict[str, np.ndarray]
Answer: TypeAlias = Callable[[Arrays], Sequence[np.ndarray]]
STRANGE = ("slipway", "tests", "flows", "tasks")


def main(form: str, folder: Path) -> None:
    """Answer each ``NAME/inputs-*.npz`` of ``folder`` with the file beside it into ``NAME/outputs-*.npz``, in order."""
    sys.modules.update(dict.fromkeys(STRANGE))  # None is Python's mark of a module that cannot be imported
    for file in sorted(folder.glob("*/model.*")):
        answer = {"program": program, "torchscript": torchscript, "onnx": onnx}[form](file)
        for inputs in sorted(file.parent.glob("inputs-*.npz")):
            with np.load(inputs) as arrays:
                outputs = answer(dict(arrays))
            np.savez(inputs.with_name(inputs.name.replace("inputs", "outputs")), *outputs)


def program(file: Path) -> Answer:
    """With PyTorch alone."""
    import torch

    torch.set_num_threads(1)  # layers as small as these only wait for a second one
    module = torch.export.load(file).module()
    return lambda arrays: _answers(module, arrays)


def torchscript(file: Path) -> Answer:
    """With PyTorch alone."""
    import torch

    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = torch.jit.load(file)
    return lambda arrays: _answers(module, arrays)


def onnx(file: Path) -> Answer:
    """With ONNX Runtime alone."""
    sys.modules["torch"] = None
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda arrays: session.run(None, arrays)


def _answers(module: Any, arrays: Arrays) -> list[np.ndarray]:
    import torch

    with torch.inference_mode():
        outputs = module(*(torch.from_numpy(array) for array in arrays.values()))
    return [found.numpy() for found in (outputs if isinstance(outputs, tuple) else (outputs,))]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
