"""Engine ``torch``: eager PyTorch, the reference that every other engine is compared with."""

from __future__ import annotations

import warnings
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


class TorchSettings(Settings):
    """``channels_last``: the weights of 2-d convolutions lie with their channels last, as oneDNN's kernels want them.

    Activations follow the weights. A ResNet-18 at 224 x 224, batch 1 and one thread, ran 1.1 to 1.2 times as fast with
    it in fp32, and 1.2 to 1.5 times in bf16. A model that takes a view of an image, as if its rows followed each other,
    does not run.
    """

    channels_last: bool = False


class TorchEngine:
    """Runs a torch.export program, or a model that was registered as TorchScript, as it is."""

    name: ClassVar[str] = NAME
    form: ClassVar[Form] = Form.PROGRAM
    suffix: ClassVar[str] = ".pt2"
    refused: ClassVar[Mapping[str, str]] = REFUSED
    settings: ClassVar[type[Settings]] = TorchSettings

    def availability(self) -> Availability:
        """Whether PyTorch is installed."""
        return installed(NAME, "torch", None)

    def build(self, source: Path, out: Path, options: BuildOptions) -> dict[str, Option]:
        """Copy the program, and label it with the signature.

        Raises:
            BadInputError: the source is neither a program nor TorchScript.
            UnsupportedError: the variant is int8, or channels_last is set for TorchScript.
        """
        if reason := self.refused.get(options.variant):
            raise UnsupportedError(f"engine {NAME} cannot execute {options.variant}: {reason}")
        channels_last = TorchSettings.model_validate(options.settings).channels_last
        if require_form(NAME, source, Form.PROGRAM, Form.TORCHSCRIPT) is Form.PROGRAM:
            program = load_program(NAME, source)
            if channels_last:
                _put_channels_last(program)
            with warnings.catch_warnings():
                # Said of a weight whose channels lie last, which is saved whole, and as it lies.
                warnings.filterwarnings("ignore", "No complete tensor found in the group", UserWarning)
                save_program(program, out, options.signature)
        elif channels_last:
            raise UnsupportedError(
                f"engine {NAME}, setting channels_last: it is for torch.export programs, and this model was registered "
                "as TorchScript; unset it"
            )
        else:
            save_script(load_script(NAME, source), out, options.signature)
        return {"channels_last": True} if channels_last else {}

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


def _put_channels_last(program: torch.export.ExportedProgram) -> None:
    """Lay out the weights of 2-d convolutions anew, in place; their values stay."""
    import torch

    convolutions = {torch.ops.aten.conv2d.default, torch.ops.aten.conv2d.padding, torch.ops.aten.convolution.default}
    names = program.graph_signature.inputs_to_parameters
    for node in program.graph.nodes:
        if node.target in convolutions and (name := names.get(node.args[1].name)):
            weight = program.state_dict[name]
            if weight.dim() == 4:
                weight.data = weight.detach().contiguous(memory_format=torch.channels_last)


def load_module(path: Path) -> torch.nn.Module:
    """The module of a torch.export program or a TorchScript file, as it was saved; the content tells which.

    A program keeps the guards on its inputs' sizes: without them a batch that the exporter froze would pass unseen.

    Raises:
        BadInputError: the file is neither, or is damaged.
    """
    if require_form(NAME, path, Form.PROGRAM, Form.TORCHSCRIPT) is Form.PROGRAM:
        return load_program(NAME, path).module()
    return load_script(NAME, path)
