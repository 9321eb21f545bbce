"""Engine ``torchscript``: a frozen TorchScript graph, without Python between the operators."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from slipway.engines.base import Arrays, Availability, BuildOptions, RunOptions, Settings
from slipway.engines.checks import installed
from slipway.engines.torch_archive import (
    load_script,
    read_signature,
    require_form,
    save_script,
    torchscript_is_deprecated,
)
from slipway.engines.torch_profile import profile_session
from slipway.engines.torch_session import TorchSession, use_threads
from slipway.errors import UnsupportedError
from slipway.records import Form, Option, Profile

NAME = "torchscript"
_AROUND_FP32 = (
    "traced, a statically quantized program runs its quantize and dequantize nodes around fp32 kernels; "
    "use onnxruntime or openvino"
)
REFUSED = dict.fromkeys(("int8-static", "int8-mixed", "int8-qat"), _AROUND_FP32)


class TorchScriptEngine:
    """Freezes weights into the graph when it builds; moves convolutions to oneDNN when it loads.

    The second step (``optimize_for_inference``) cannot be part of the file: its prepacked oneDNN constants do not
    serialise ("required keyword attribute 'value' is undefined"). Applied after loading it takes any batch size.
    """

    name: ClassVar[str] = NAME
    form: ClassVar[Form] = Form.TORCHSCRIPT
    suffix: ClassVar[str] = ".ts"
    refused: ClassVar[Mapping[str, str]] = REFUSED
    settings: ClassVar[type[Settings]] = Settings

    def availability(self) -> Availability:
        """Whether PyTorch is installed."""
        return installed(NAME, "torch", None)

    def build(self, source: Path, out: Path, options: BuildOptions) -> dict[str, Option]:
        """Freeze the module, and label it with the signature.

        Raises:
            BadInputError: the source is not TorchScript.
            UnsupportedError: the variant is static int8.
        """
        import torch

        if reason := self.refused.get(options.variant):
            raise UnsupportedError(f"engine {NAME} cannot execute {options.variant}: {reason}")
        require_form(NAME, source, Form.TORCHSCRIPT)
        with torchscript_is_deprecated():
            frozen = torch.jit.freeze(load_script(NAME, source))
        save_script(frozen, out, options.signature)
        return {"frozen": True}

    def load(self, path: Path, options: RunOptions) -> TorchSession:
        """Open a file that this engine built.

        Raises:
            BadInputError: the file is not one of this engine's.
        """
        import torch

        use_threads(options.threads)
        require_form(NAME, path, Form.TORCHSCRIPT)
        signature = read_signature(NAME, path)
        module = load_script(NAME, path)
        with torchscript_is_deprecated():
            optimized = torch.jit.optimize_for_inference(module)
        return TorchSession(optimized, signature, options.threads)

    def profile(self, path: Path, options: RunOptions, arrays: Arrays, calls: int, trace: Path) -> Profile:
        """What a file that this engine built executes, told by torch.profiler.

        Raises:
            BadInputError: the file is not one of this engine's.
        """
        with self.load(path, options) as session:
            return profile_session(session, arrays, calls, options.threads, trace)
