"""The engines that the contract is tried on, with their settings; a new engine is one more row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from slipway.engines import engine
from slipway.engines.base import BuildOptions, Engine
from slipway.records import Signature


@dataclass(frozen=True)
class Case:
    """An engine, the precision its layers run in for each variant, and what it refuses.

    ``sessions_tell`` and ``profiles`` say whether a session and the runtime's profiler tell that precision; ``runs``,
    whether its files run on this host. One that ``compiles`` for long is left to `make integration`, one that needs a
    ``gpu`` to `pytest -m gpu`. An engine that is tried with ``settings`` has an ``id`` beside its name.
    """

    engine: str
    variants: dict[str, str]
    refused: tuple[str, ...] = ()
    sessions_tell: bool = True
    profiles: bool = True
    runs: bool = True
    same_bytes: bool = True
    compiles: bool = False
    gpu: bool = False
    id: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the case is called: as its engine, unless it has an id of its own."""
        return self.id or self.engine

    @property
    def tolerance(self) -> float:
        """Largest relative difference from eager fp32 that fp32 may show: TF32 keeps ten bits of a fraction."""
        return 5e-3 if self.settings.get("tf32") else 1e-5


CASES = (
    Case("torch", {"fp32": "fp32", "bf16": "bf16"}, refused=("int8-dynamic", "int8-static"), sessions_tell=False),
    Case(
        "torchscript",
        {"fp32": "fp32", "bf16": "bf16", "int8-dynamic": "int8"},
        refused=("int8-static",),
        sessions_tell=False,
    ),
    Case(
        "inductor",
        {"fp32": "fp32", "bf16": "bf16"},
        refused=("int8-dynamic", "int8-static"),
        sessions_tell=False,
        compiles=True,
    ),
    Case("onnxruntime", {"fp32": "fp32", "int8-dynamic": "int8", "int8-static": "int8"}, refused=("bf16",)),
    # MatMulInteger has no int8 kernel in OpenVINO's CPU plugin: it runs, in fp32, and says so
    Case("openvino", {"fp32": "fp32", "bf16": "bf16", "int8-dynamic": "fp32", "int8-static": "int8"}),
    # TensorRT chooses kernels by how long they take where it builds: two builds may differ
    Case(
        "tensorrt",
        {"fp32": "fp32", "bf16": "bf16", "int8-static": "int8"},
        refused=("int8-dynamic",),
        same_bytes=False,
        gpu=True,
    ),
    # its compiler orders by addresses in memory: with address randomisation, names inside of a plan differ
    Case(
        "tensorrt-rtx",
        {"fp32": "fp32", "bf16": "bf16", "int8-static": "int8"},
        refused=("int8-dynamic",),
        runs=False,
        same_bytes=False,
    ),
    # machine code as TVM has LLVM make it: the order of a few instructions differs from build to build
    Case("tvm", {"fp32": "fp32"}, refused=("bf16", "int8-dynamic", "int8-static"), same_bytes=False, compiles=True),
    Case("executorch", {"fp32": "fp32", "int8-static": "int8"}, refused=("bf16", "int8-dynamic"), compiles=True),
    *(
        Case(
            "torch",
            {"fp32": "fp32", "bf16": "bf16"},
            refused=("int8-dynamic", "int8-static"),
            sessions_tell=False,
            gpu=True,
            id=f"torch-{name}",
            settings={"device": "cuda", **settings},
        )
        for name, settings in (("cuda", {}), ("cuda-graphs", {"cuda_graphs": True}), ("cuda-tf32", {"tf32": True}))
    ),
    *(
        Case(
            "onnxruntime",
            {"fp32": "fp32"},
            refused=("bf16", "int8-dynamic", "int8-static"),
            profiles=False,
            gpu=True,
            id=f"onnxruntime-{settings['provider']}",
            settings=settings,
        )
        for settings in ({"provider": "cuda"}, {"provider": "tensorrt", "tf32": True})
    ),
)


def case(name: str) -> Case:
    """The case called ``name``."""
    return next(one for one in CASES if one.name == name)


def runtime_of(name: str) -> Engine:
    """The engine of the case called ``name``."""
    return engine(case(name).engine)


def options_of(name: str, variant: str, signature: Signature, *batch: int) -> BuildOptions:
    """With what the case called ``name`` builds."""
    settings = dict(case(name).settings)
    return BuildOptions(variant=variant, signature=signature, batch=batch or (1,), settings=settings)
