"""Engine ``tensorrt-rtx``: NVIDIA's runtime for RTX GPUs, built ahead of time without one."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator

from slipway.engines.base import Arrays, Availability, BuildOptions, RunOptions, Settings
from slipway.engines.checks import installed
from slipway.engines.nvidia_gpu import first_gpu
from slipway.engines.tensorrt_build import REFUSED, build_plan
from slipway.engines.tensorrt_file import Label, write_file
from slipway.engines.tensorrt_session import TensorRtSession, open_file, profile_file
from slipway.engines.tensorrt_shapes import ShapeSettings, batch_range
from slipway.errors import UnsupportedError
from slipway.records import Form, Option, Profile

NAME, MODULE, DISTRIBUTION = "tensorrt-rtx", "tensorrt_rtx", "tensorrt_rtx_cu13"
DEFAULT_CAPABILITY = "8.9"  # Ada Lovelace: RTX 40 and the professional L4 and L40


class TensorRtRtxSettings(ShapeSettings):
    """What may be set for this engine.

    A file runs on the ``compute_capabilities`` that it was built for: by default that of the GPU here, or 8.9 where
    there is none.
    """

    compute_capabilities: tuple[str, ...] | None = Field(None, min_length=1)

    @field_validator("compute_capabilities")
    @classmethod
    def _are_known(cls, asked: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if asked is None:
            return None
        known = known_capabilities(importlib.import_module(MODULE))
        if wrong := [one for one in asked if one not in known]:
            raise ValueError(f"{NAME} has no compute capability {', '.join(wrong)}; known: {', '.join(known)}")
        return tuple(one for one in known if one in asked)


class TensorRtRtxEngine:
    """Builds for GPUs that need not be here; the kernels are compiled where the file is loaded."""

    name: ClassVar[str] = NAME
    form: ClassVar[Form] = Form.ONNX
    suffix: ClassVar[str] = ".engine"
    refused: ClassVar[Mapping[str, str]] = REFUSED
    settings: ClassVar[type[Settings]] = TensorRtRtxSettings

    def availability(self) -> Availability:
        """Whether TensorRT-RTX is installed, which is enough to build; to run, a GPU that it knows must be here."""
        found = installed(NAME, DISTRIBUTION, NAME)
        if not found.available:
            return found
        try:
            gpu = first_gpu()
            known = known_capabilities(importlib.import_module(MODULE))
            missing = "" if gpu.capability in known else f"{gpu.name} has compute capability {gpu.capability}"
        except UnsupportedError as error:
            missing, known = str(error), ()
        if not missing:
            return found
        wanted = ", ".join(known) or f"{DEFAULT_CAPABILITY}, or what compute_capabilities names"
        reason = f"{missing}; its files run on NVIDIA RTX GPUs of compute capability {wanted}"
        return found.model_copy(update={"runs": False, "reason": reason})

    def build(self, source: Path, out: Path, options: BuildOptions) -> dict[str, Option]:
        """Build one plan for all compute capabilities asked for.

        The same source gives the same kernels, but not always the same bytes: the library's compiler orders some of
        the names inside by addresses in memory.

        Raises:
            BadInputError: the source is not ONNX, or its names are not the signature's.
            UnsupportedError: the variant is int8-dynamic, an operator is unknown to the runtime, or a dynamic
                dimension beside the batch has no range in the settings.
        """
        if reason := self.refused.get(options.variant):
            raise UnsupportedError(f"engine {NAME} cannot execute {options.variant}: {reason}")
        settings = TensorRtRtxSettings.model_validate(options.settings)
        runtime = importlib.import_module(MODULE)
        capabilities = settings.compute_capabilities or _default_capabilities(runtime)

        def configure(_builder: Any, config: Any) -> dict[str, Option]:
            config.num_compute_capabilities = len(capabilities)
            for index, capability in enumerate(capabilities):
                member = f"SM{capability.replace('.', '')}"
                config.set_compute_capability(getattr(runtime.ComputeCapability, member), index)
            return {"compute_capabilities": ", ".join(capabilities)}

        plan, told = build_plan(NAME, runtime, source, options, settings, configure)
        label = Label(
            engine=NAME,
            version=runtime.__version__,
            capabilities=capabilities,
            signature=options.signature,
            max_batch=batch_range(options, settings)[2],
        )
        write_file(out, label, plan)
        return told

    def load(self, path: Path, options: RunOptions) -> TensorRtSession:
        """Open a file that this engine built, on the first GPU; ``threads`` are of no use there.

        Raises:
            BadInputError: the file is not one of this engine's.
            UnsupportedError: no GPU is here that the file was built for.
        """
        return open_file(NAME, MODULE, path)

    def profile(self, path: Path, options: RunOptions, arrays: Arrays, calls: int, trace: Path) -> Profile:
        """What a file that this engine built executes, told by the runtime's own profiler and inspector.

        Raises:
            BadInputError: the file is not one of this engine's.
            UnsupportedError: no GPU is here that the file was built for.
        """
        return profile_file(NAME, MODULE, path, options, arrays, calls, trace)


def _default_capabilities(runtime: Any) -> tuple[str]:
    try:
        here = first_gpu().capability
    except UnsupportedError:
        return (DEFAULT_CAPABILITY,)
    return (here if here in known_capabilities(runtime) else DEFAULT_CAPABILITY,)


def known_capabilities(runtime: Any) -> tuple[str, ...]:
    """The compute capabilities that the library builds for, from the least to the highest, such as ``8.9``."""
    digits = [name.removeprefix("SM") for name in runtime.ComputeCapability.__members__ if name.startswith("SM")]
    return tuple(f"{one[:-1]}.{one[-1]}" for one in sorted(digits, key=int))
