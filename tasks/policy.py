"""The policy that every task shares: what makes a cached result good, what is tried again, what is told."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

from prefect.cache_policies import CachePolicy
from pydantic import BaseModel

import slipway
from slipway.config import AccuracyParams
from slipway.engines.checks import compiler_command
from slipway.errors import InfrastructureError
from slipway.measure.metrics import source_of
from slipway.wiring import host_hardware
from tasks.progress import on_change

RUNTIMES = (
    "torch",
    "torchao",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "executorch",
    "apache-tvm",
    "tensorrt_cu13",
    "tensorrt_cu12",
    "tensorrt",
    "tensorrt_rtx_cu13",
    "numpy",
    "scipy",
)
# What of Slipway's source a result can depend on.
SOURCES = (
    "decisions",
    "engines",
    "exports",
    "measure",
    "reports",
    "steps",
    "stores",
    "variants",
    "config.py",
    "records",
)
# Stores say where bytes lie, not what they are; a budget, a limit and a drop to give up at say whether a step comes to
# its end, not what it then finds.
NOT_CONTENT = frozenset({"objects", "registry", "budget", "limit", "give_up_drop"})


class ContentPolicy(CachePolicy):
    """Two calls share a result when the step, its records, Slipway's own source and the runtimes' versions agree.

    Records name their bytes by digest, so equal keys mean equal inputs.
    """

    def compute_key(self, task_ctx: Any, inputs: dict[str, Any], flow_parameters: dict[str, Any], **_: Any) -> str:
        """The sha256 over everything that the result depends on."""
        content = {name: value for name, value in inputs.items() if name not in NOT_CONTENT}
        text = json.dumps([task_ctx.task.name, surroundings(), content], sort_keys=True, default=_content_of)
        return hashlib.sha256(text.encode()).hexdigest()


def _content_of(value: object) -> object:
    if isinstance(value, AccuracyParams):
        return [value.model_dump(mode="json"), source_of(value.metric)]
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"a task was given {type(value).__name__}, which has no content to key a cache on")


@functools.cache
def surroundings() -> tuple[str, ...]:
    """What results depend on beside their inputs: Slipway's source, this host, the runtimes and the C++ compiler.

    Kernels differ from one CPU to another, and with them answers: int8 products saturate where VNNI is missing. Some
    engines let the C++ compiler make theirs.
    """
    source = hashlib.sha256()
    package = Path(slipway.__file__).parent
    for name in SOURCES:
        place = package / name
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            source.update(file.read_bytes())
    versions = (f"{name}=={_version(name)}" for name in RUNTIMES)
    return (source.hexdigest(), host_hardware().fingerprint, f"C++: {_compiler()}", *versions)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _compiler() -> str | None:
    """What the C++ compiler calls itself and its version; None without one."""
    command = [*shlex.split(compiler_command("g++")), "--version"]
    try:
        told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(told.splitlines()), None)


def _is_infrastructure(_task: Any, _run: Any, state: Any) -> bool:
    return isinstance(state.result(raise_on_failure=False), InfrastructureError)


TOLD: dict[str, Any] = {"on_running": [on_change], "on_completion": [on_change], "on_failure": [on_change]}
# Only infrastructure is tried again: a wrong input stays wrong.
RETRIED: dict[str, Any] = {"retries": 1, "retry_delay_seconds": 1, "retry_condition_fn": _is_infrastructure}
CACHED: dict[str, Any] = {"cache_policy": ContentPolicy(), "persist_result": True, "result_serializer": "json"}
