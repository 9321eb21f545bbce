"""Engine ``tensorrt``: NVIDIA's runtime for data-centre GPUs and Jetson."""

from __future__ import annotations

import ctypes.util
import importlib
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from slipway.engines.base import Arrays, Availability, BuildOptions, RunOptions, Settings
from slipway.engines.checks import first_installed
from slipway.engines.nvidia_gpu import first_gpu
from slipway.engines.tensorrt_build import REFUSED, build_plan
from slipway.engines.tensorrt_cache import TimingCache
from slipway.engines.tensorrt_file import Label, write_file
from slipway.engines.tensorrt_session import TensorRtSession, open_file, profile_file
from slipway.engines.tensorrt_shapes import ShapeSettings, batch_range
from slipway.errors import BadInputError, UnsupportedError
from slipway.records import Form, Option, Profile

NAME, MODULE = "tensorrt", "tensorrt"
# From a package index, for CUDA 13 and 12, and as JetPack installs it.
DISTRIBUTIONS = ("tensorrt_cu13", "tensorrt_cu12", "tensorrt")
LIBRARY = "libnvinfer.so"


class TensorRtSettings(ShapeSettings):
    """What may be set for this engine.

    ``timing_cache`` is the file in which the times of kernels are kept from build to build, by default one per GPU and
    version in the user's cache. ``dla_core`` builds for that accelerator of a Jetson, ``gpu_fallback`` lets the GPU run
    what it cannot. A ``version_compatible`` file runs on later versions too. ``optimization_level`` is the builder's
    own, from 0 (built soonest) to 5 (tried most); TensorRT's default is 3.
    """

    timing_cache: Path | None = None
    dla_core: int | None = Field(None, ge=0)
    gpu_fallback: bool = False
    version_compatible: bool = False
    optimization_level: int = Field(3, ge=0, le=5)


class TensorRtEngine:
    """Builds on the GPU that the file will run on: kernels are chosen by their times there, so that builds differ."""

    name: ClassVar[str] = NAME
    form: ClassVar[Form] = Form.ONNX
    suffix: ClassVar[str] = ".engine"
    refused: ClassVar[Mapping[str, str]] = REFUSED
    settings: ClassVar[type[Settings]] = TensorRtSettings

    def availability(self) -> Availability:
        """Whether TensorRT, its libraries, and a GPU with its driver are here; if not, which of them is missing."""
        found = first_installed(NAME, DISTRIBUTIONS)
        missing = [f"{found.reason}, which brings {LIBRARY}"] if found.reason else _missing_library(found.version or "")
        try:
            first_gpu()
        except UnsupportedError as error:
            missing.append(str(error))
        if not missing:
            return found
        return found.model_copy(update={"available": False, "reason": "; ".join(missing)})

    def build(self, source: Path, out: Path, options: BuildOptions) -> dict[str, Option]:
        """Build a plan for the GPU of this host.

        Raises:
            BadInputError: the source is not ONNX, its names are not the signature's, or the timing cache is another's.
            UnsupportedError: the variant is int8-dynamic, an operator is unknown to the runtime, a dynamic dimension
                beside the batch has no range in the settings, or the DLA core asked for is not here.
        """
        if reason := self.refused.get(options.variant):
            raise UnsupportedError(f"engine {NAME} cannot execute {options.variant}: {reason}")
        settings = TensorRtSettings.model_validate(options.settings)
        runtime, gpu = importlib.import_module(MODULE), first_gpu()
        cache = TimingCache(settings.timing_cache, runtime.__version__, gpu)

        def configure(builder: Any, config: Any) -> dict[str, Option]:
            cache.attach(config)
            return _configure(runtime, builder, config, settings)

        plan, told = build_plan(NAME, runtime, source, options, settings, configure)
        label = Label(
            engine=NAME,
            version=runtime.__version__,
            capabilities=(gpu.capability,),
            signature=options.signature,
            max_batch=batch_range(options, settings)[2],
            version_compatible=settings.version_compatible,
            dla_core=settings.dla_core,
        )
        write_file(out, label, plan)
        return {**told, "timing_cache_sha256": cache.save()}

    def load(self, path: Path, options: RunOptions) -> TensorRtSession:
        """Open a file that this engine built, on the first GPU; ``threads`` are of no use there.

        Raises:
            BadInputError: the file is not one of this engine's.
            UnsupportedError: the GPU here is another than the file was built on.
        """
        return open_file(NAME, MODULE, path)

    def profile(self, path: Path, options: RunOptions, arrays: Arrays, calls: int, trace: Path) -> Profile:
        """What a file that this engine built executes, told by TensorRT's own profiler and inspector.

        Raises:
            BadInputError: the file is not one of this engine's.
            UnsupportedError: the GPU here is another than the file was built on.
        """
        return profile_file(NAME, MODULE, path, options, arrays, calls, trace)


def _configure(runtime: Any, builder: Any, config: Any, settings: TensorRtSettings) -> dict[str, Option]:
    config.builder_optimization_level = settings.optimization_level
    told: dict[str, Option] = {"optimization_level": settings.optimization_level}
    if settings.version_compatible:
        config.set_flag(runtime.BuilderFlag.VERSION_COMPATIBLE)
        told["version_compatible"] = True
    if settings.dla_core is None:
        if settings.gpu_fallback:
            raise BadInputError(f"engine {NAME}: gpu_fallback is for what a DLA cannot run; set dla_core too")
        return told
    if settings.dla_core >= builder.num_DLA_cores:
        cores = builder.num_DLA_cores
        raise UnsupportedError(
            f"engine {NAME}: dla_core {settings.dla_core} was asked for, this host has {cores} cores"
        )
    config.default_device_type = runtime.DeviceType.DLA
    config.DLA_core = settings.dla_core
    if settings.gpu_fallback:
        config.set_flag(runtime.BuilderFlag.GPU_FALLBACK)
    return {**told, "dla_core": settings.dla_core, "gpu_fallback": settings.gpu_fallback}


def _missing_library(version: str) -> list[str]:
    """The library that TensorRT's Python package only binds to, if it is nowhere."""
    wheel = importlib.util.find_spec("tensorrt_libs")
    folders = [Path(one) for one in (wheel.submodule_search_locations or ())] if wheel else []
    folders += [Path(one) for one in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if one]
    if any(True for folder in folders for _ in folder.glob(f"{LIBRARY}*")) or ctypes.util.find_library("nvinfer"):
        return []
    return [
        f"TensorRT's Python package {version} is here, but its library {LIBRARY}.{version.partition('.')[0]} is not"
    ]
