"""Engine ``executorch``: PyTorch's runtime for phones and edge devices, with XNNPACK's kernels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from slipway.engines.base import Arrays, Availability, BuildOptions, RunOptions, Settings
from slipway.engines.checks import installed
from slipway.engines.executorch_file import read_labelled, write_labelled
from slipway.engines.executorch_lowering import lower
from slipway.engines.executorch_profile import MOST_CALLS, TOOL, trace_events, traced_calls
from slipway.engines.executorch_runtime import ExecuTorchSession
from slipway.engines.profiling import TRACED_CALLS, WARM_UP_CALLS, batch_of, mean_layers, write_trace
from slipway.engines.torch_archive import load_program, require_form
from slipway.errors import UnsupportedError
from slipway.records import Form, Layer, Option, Profile

NAME = "executorch"
LEAST_BOUND = 32
_ONNX_ONLY = "it is made as ONNX alone; use int8-static, which this engine runs in int8"
REFUSED = {
    "bf16": "XNNPACK takes no bfloat16, and the portable kernels that remain are a hundred times slower than fp32; "
    "use fp16 or int8-static",
    "int8-dynamic": "it is made as TorchScript and ONNX alone; use int8-static, which this engine runs in int8",
    "int8-mixed": _ONNX_ONLY,
    "int8-qat": _ONNX_ONLY,
}


class ExecuTorchSettings(Settings):
    """``longest`` is the greatest size of every dynamic dimension but the batch."""

    longest: Annotated[int, Field(gt=1)] | None = None


class ExecuTorchEngine:
    """Gives XNNPACK what it takes; the rest runs in the portable kernels, slowly, which the options tell."""

    name: ClassVar[str] = NAME
    form: ClassVar[Form] = Form.PROGRAM
    suffix: ClassVar[str] = ".pte"
    refused: ClassVar[Mapping[str, str]] = REFUSED
    settings: ClassVar[type[Settings]] = ExecuTorchSettings

    def availability(self) -> Availability:
        """Whether it is installed."""
        return installed(NAME, "executorch", NAME)

    def build(self, source: Path, out: Path, options: BuildOptions) -> dict[str, Option]:
        """Lower a program and write it with its signature; the same source gives the same bytes.

        Memory is planned for 32 examples, or the largest batch of ``options``; a session takes more in parts.

        Raises:
            BadInputError: the source is no program, or not the signature's.
            UnsupportedError: the variant is refused, the model is TorchScript, a size is unbounded, or an operator has
                no kernel.
        """
        if reason := self.refused.get(options.variant):
            raise UnsupportedError(f"engine {NAME} cannot execute {options.variant}: {reason}")
        if require_form(NAME, source, Form.PROGRAM, Form.TORCHSCRIPT) is Form.TORCHSCRIPT:
            raise UnsupportedError(
                f"engine {NAME} is built from a torch.export program, and this model was registered as TorchScript; "
                "log it in MLflow's default pt2 format"
            )
        settings = ExecuTorchSettings.model_validate(options.settings)
        largest = max(LEAST_BOUND, *options.batch)
        lowered = lower(load_program(NAME, source), options.signature, largest, settings.longest, NAME)
        portable = "fp16" if options.variant == "fp16" else "fp32"
        write_labelled(lowered.program, options.signature, portable, out)
        return {"delegated": f"{lowered.delegated}/{lowered.operators}", "largest_batch": largest}

    def load(self, path: Path, options: RunOptions) -> ExecuTorchSession:
        """Open a file that this engine built.

        Raises:
            BadInputError: the file is not one of this engine's.
            UnsupportedError: this version of the runtime does not run it.
        """
        program, label = read_labelled(NAME, path)
        return ExecuTorchSession(NAME, program, label, options.threads)

    def profile(self, path: Path, options: RunOptions, arrays: Arrays, calls: int, trace: Path) -> Profile:
        """What a file that this engine built executes, told by the runtime's event tracer.

        Raises:
            BadInputError: the file is not one of this engine's.
            UnsupportedError: this version of the runtime does not run it, or its trace cannot be read.
        """
        program, label = read_labelled(NAME, path)
        calls, batch = min(calls, MOST_CALLS), batch_of(arrays)
        with ExecuTorchSession(NAME, program, label, options.threads, traced=True) as session:
            for _ in range(WARM_UP_CALLS + calls):
                session.infer(arrays)
            blocks = math.ceil(batch / session.largest_batch) if session.largest_batch else 1
            traced = traced_calls(session, label.portable, max(1, blocks))[WARM_UP_CALLS:]
        write_trace(trace, trace_events(traced[-TRACED_CALLS:]))
        layers = mean_layers([_whole([layer for layer, _ in call]) for call in traced])
        return Profile(tool=TOOL, layers=layers, calls=calls, batch=batch, threads=options.threads)


def _whole(layers: list[Layer]) -> list[Layer]:
    """A call's layers, each once, with the time of all parts that the batch was cut into."""
    whole: dict[str, Layer] = {}
    for layer in layers:
        before = whole.get(layer.name)
        time_us = (layer.time_us or 0.0) + (before.time_us or 0.0 if before else 0.0)
        whole[layer.name] = layer.model_copy(update={"time_us": time_us})
    return list(whole.values())
