"""Engine ``torch``: eager PyTorch, on the CPU the reference that every other engine is compared with."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import ValidationInfo, field_validator, model_validator

from slipway.engines.base import Arrays, Availability, BuildOptions, RunOptions, Settings
from slipway.engines.checks import bad_file, installed
from slipway.engines.torch_archive import (
    load_program,
    load_script,
    read_extra,
    read_signature,
    require_form,
    save_program,
    save_script,
)
from slipway.engines.torch_cuda import LABEL_FILE, CudaLabel, CudaSession, module_on, require_cuda
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

    With ``device`` cuda the file is for an NVIDIA GPU. There ``cuda_graphs`` captures the calls of each of the target's
    batch sizes, and ``tf32`` lets products and convolutions of fp32 round their inputs to it.
    """

    channels_last: bool = False
    device: Literal["cpu", "cuda"] = "cpu"
    cuda_graphs: bool = False
    tf32: bool = False

    @field_validator("cuda_graphs", "tf32")
    @classmethod
    def _on_a_gpu(cls, wanted: bool, info: ValidationInfo) -> bool:
        if wanted and info.data.get("device") == "cpu":
            raise ValueError("it is for a GPU: set device: cuda too")
        return wanted

    @model_validator(mode="after")
    def _on_this_host(self) -> Self:
        if self.device == "cuda":
            require_cuda(NAME)
        return self


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
        """Copy the program, and label it with the signature and with the GPU's settings, if it is for one.

        Raises:
            BadInputError: the source is neither a program nor TorchScript.
            UnsupportedError: the variant is int8, a setting is not for TorchScript, or there is no GPU here.
        """
        if reason := self.refused.get(options.variant):
            raise UnsupportedError(f"engine {NAME} cannot execute {options.variant}: {reason}")
        settings = TorchSettings.model_validate(options.settings)
        told: dict[str, Option] = {"channels_last": True} if settings.channels_last else {}
        if settings.device == "cuda":
            told |= _told_of_gpu(settings, options.batch)
        if require_form(NAME, source, Form.PROGRAM, Form.TORCHSCRIPT) is Form.PROGRAM:
            program = load_program(NAME, source)
            if settings.channels_last:
                _put_channels_last(program)
            with warnings.catch_warnings():
                # Said of a weight whose channels lie last, which is saved whole, and as it lies.
                warnings.filterwarnings("ignore", "No complete tensor found in the group", UserWarning)
                save_program(program, out, options.signature, _labels(settings, options.batch))
        elif told:
            raise UnsupportedError(
                f"engine {NAME}, setting {next(iter(told))}: it is for torch.export programs, and this model was "
                "registered as TorchScript; unset it"
            )
        else:
            save_script(load_script(NAME, source), out, options.signature)
        return told

    def load(self, path: Path, options: RunOptions) -> TorchSession:
        """Open a program that this engine built, on the device that it was built for.

        Raises:
            BadInputError: the file is not one of this engine's.
            UnsupportedError: it is for a GPU, and PyTorch reaches none here.
        """
        return _load(path, options.threads, captures=True)

    def profile(self, path: Path, options: RunOptions, arrays: Arrays, calls: int, trace: Path) -> Profile:
        """What a program that this engine built executes, told by torch.profiler.

        One with CUDA graphs is profiled without: the kernels of a graph do not tell which operator they are of.

        Raises:
            BadInputError: the file is not one of this engine's.
            UnsupportedError: it is for a GPU, and PyTorch reaches none here.
        """
        with _load(path, options.threads, captures=False) as session:
            return profile_session(session, arrays, calls, options.threads, trace)


def _told_of_gpu(settings: TorchSettings, batch: tuple[int, ...]) -> dict[str, Option]:
    told: dict[str, Option] = {"device": settings.device}
    if settings.cuda_graphs:
        told["cuda_graphs"] = f"of batch {', '.join(map(str, batch))}; any other runs eagerly"
    return told | ({"tf32": True} if settings.tf32 else {})


def _labels(settings: TorchSettings, batch: tuple[int, ...]) -> dict[str, str]:
    """The extra files beside the signature; none in a file for the CPU."""
    if settings.device == "cpu":
        return {}
    label = CudaLabel(graph_batches=batch if settings.cuda_graphs else (), tf32=settings.tf32)
    return {LABEL_FILE: label.model_dump_json()}


def _load(path: Path, threads: int, *, captures: bool) -> TorchSession:
    use_threads(threads)
    form = require_form(NAME, path, Form.PROGRAM, Form.TORCHSCRIPT)
    told = read_extra(NAME, path, LABEL_FILE) if form is Form.PROGRAM else None
    if told is None:
        module = _module(path, form)
        return TorchSession(module, read_signature(NAME, path), threads)
    try:
        label = CudaLabel.model_validate_json(told)
    except ValueError as error:
        raise bad_file(NAME, path, f"an engine file whose {LABEL_FILE} says with what it runs on a GPU") from error
    require_cuda(NAME)
    module = module_on(load_program(NAME, path), "cuda")
    if not captures:
        label = label.model_copy(update={"graph_batches": ()})
    return CudaSession(module, read_signature(NAME, path), threads, label)


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
    return _module(path, require_form(NAME, path, Form.PROGRAM, Form.TORCHSCRIPT))


def _module(path: Path, form: Form) -> torch.nn.Module:
    return load_program(NAME, path).module() if form is Form.PROGRAM else load_script(NAME, path)
