"""What this host is, and the fingerprint of what changes an engine's behaviour on it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from slipway.records import Hardware

# As Linux spells them: x86 under "flags", ARM under "Features" (asimddp is the dot product).
ISA_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "avx_vnni",
    "avx_vnni_int8",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "sve",
    "sve2",
    "i8mm",
    "bf16",
)
_NVIDIA_SMI_SECONDS = 10.0


def describe(runtimes: Mapping[str, str], cpuinfo: Path = Path("/proc/cpuinfo")) -> Hardware:
    """This host, with the versions of ``runtimes`` by name.

    The fingerprint is the sha256 of CPU, ISA flags, allowed cores, GPU, architecture and runtime versions; memory and
    load stay out, since they change no answer.
    """
    fields = _first_processor(cpuinfo)
    behaviour = {
        "cpu": fields.get("model name") or platform.processor() or "unknown",
        "isa": _isa(fields),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": _gpu(),
        "machine": platform.machine(),
        "runtimes": dict(sorted(runtimes.items())),
    }
    fingerprint = hashlib.sha256(json.dumps(behaviour, sort_keys=True).encode()).hexdigest()
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Hardware.model_validate({**behaviour, "fingerprint": fingerprint, "memory_bytes": memory_bytes})


def _first_processor(cpuinfo: Path) -> dict[str, str]:
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _isa(fields: Mapping[str, str]) -> tuple[str, ...]:
    present = set((fields.get("flags") or fields.get("Features") or "").split())
    return tuple(flag for flag in ISA_FLAGS if flag in present)


def _gpu() -> str | None:
    """Names of the NVIDIA GPUs, told by the driver; None without a driver that answers."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    query = [command, "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=_NVIDIA_SMI_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    names = [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    return ", ".join(names) or None
