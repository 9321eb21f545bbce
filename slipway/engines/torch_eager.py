"""Engine ``torch``: eager PyTorch, the reference that every other engine is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from slipway.engines.base import Arrays, Availability, BuildOptions, RunOptions, Settings
from slipway.engines.checks import installed
from slipway.engines.torch_archive import (
    load_program,
    load_script,
    read_signature,
    require_form,
    save_program,
    save_script,
)
from slipway.engines.torch_profile import profile_session
from slipway.engines.torch_session import TorchSession, use_threads
from slipway.errors import UnsupportedError
from slipway.records import Form, Option, Profile

if TYPE_CHECKING:
    import torch

NAME = "torch"
_AROUND_FP32 = (
    "eager PyTorch would run its quantize and dequantize nodes around fp32 kernels, slower than fp32; "
    "use onnxruntime or openvino"
)
REFUSED = {
    "int8-static": _AROUND_FP32,
    "int8-mixed": _AROUND_FP32,
    "int8-qat": _AROUND_FP32,
    "int8-dynamic": "packed int8 weights cannot be saved in a torch.export program; use torchscript or onnxruntime",
}


class TorchEngine:
    """Runs a torch.export program, or a model that was registered as TorchScript, as it is."""

    name: ClassVar[str] = NAME
    form: ClassVar[Form] = Form.PROGRAM
    suffix: ClassVar[str] = ".pt2"
    refused: ClassVar[Mapping[str, str]] = REFUSED
    settings: ClassVar[type[Settings]] = Settings

    def availability(self) -> Availability:
        """Whether PyTorch is installed."""
        return installed(NAME, "torch", None)

    def build(self, source: Path, out: Path, options: BuildOptions) -> dict[str, Option]:
        """Copy the program, and label it with the signature.

        Raises:
            BadInputError: the source is neither a program nor TorchScript.
            UnsupportedError: the variant is int8.
        """
        if reason := self.refused.get(options.variant):
            raise UnsupportedError(f"engine {NAME} cannot execute {options.variant}: {reason}")
        if require_form(NAME, source, Form.PROGRAM, Form.TORCHSCRIPT) is Form.PROGRAM:
            save_program(load_program(NAME, source), out, options.signature)
        else:
            save_script(load_script(NAME, source), out, options.signature)
        return {}

    def load(self, path: Path, options: RunOptions) -> TorchSession:
        """Open a program that this engine built.

        Raises:
            BadInputError: the file is not one of this engine's.
        """
        use_threads(options.threads)
        module = load_module(path)
        return TorchSession(module, read_signature(NAME, path), options.threads)

    def profile(self, path: Path, options: RunOptions, arrays: Arrays, calls: int, trace: Path) -> Profile:
        """What a program that this engine built executes, told by torch.profiler.

        Raises:
            BadInputError: the file is not one of this engine's.
        """
        with self.load(path, options) as session:
            return profile_session(session, arrays, calls, options.threads, trace)


def load_module(path: Path) -> torch.nn.Module:
    """The module of a torch.export program or a TorchScript file, as it was saved; the content tells which.

    A program keeps the guards on its inputs' sizes: without them a batch that the exporter froze would pass unseen.

    Raises:
        BadInputError: the file is neither, or is damaged.
    """
    if require_form(NAME, path, Form.PROGRAM, Form.TORCHSCRIPT) is Form.PROGRAM:
        return load_program(NAME, path).module()
    return load_script(NAME, path)
