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
CPUINFO, CACHES = Path("/proc/cpuinfo"), Path("/sys/devices/system/cpu/cpu0/cache")
_KIB = 1024  # the unit in which Linux tells cache sizes, whatever their size
_NVIDIA_SMI_SECONDS = 10.0


def describe(runtimes: Mapping[str, str], cpuinfo: Path = CPUINFO, caches: Path = CACHES) -> Hardware:
    """This host, with the versions of ``runtimes`` by name.

    The fingerprint is the sha256 of CPU, ISA flags, caches (kernels are tiled by them), allowed cores, architecture,
    GPU, its compute capability and driver, and runtime versions; memory and load stay out, since they change no answer.
    """
    fields = _first_processor(cpuinfo)
    behaviour = {
        "cpu": fields.get("model name") or platform.processor() or "unknown",
        "isa": _isa(fields),
        "caches": _caches(caches),
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "runtimes": dict(sorted(runtimes.items())),
        **dict(zip(("gpu", "compute_capability", "driver"), _gpu(), strict=True)),
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


def _caches(directory: Path) -> dict[str, int]:
    """Sizes in bytes of the data caches that serve the first processor, by name; none where Linux does not tell."""
    sizes: dict[str, int] = {}
    for cache in sorted(directory.glob("index*")):
        try:
            level, kind, size = ((cache / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        if kind != "Instruction" and size.endswith("K"):
            sizes[f"L{level}{'d' if kind == 'Data' else ''}"] = int(size[:-1]) * _KIB
    return sizes


def _gpu() -> tuple[str | None, str | None, str | None]:
    """Names, compute capabilities and driver version of the NVIDIA GPUs; None without a driver that answers.

    A driver of before 2022 knows no query for the compute capability, and is asked for names alone.
    """
    command = shutil.which("nvidia-smi")
    if command is None:
        return None, None, None
    if rows := _ask_driver(command, "name", "compute_cap", "driver_version"):
        names, capabilities, drivers = zip(*rows, strict=True)
        return ", ".join(names), ", ".join(dict.fromkeys(capabilities)), drivers[0]
    names_alone = [name for (name,) in _ask_driver(command, "name")]
    return ", ".join(names_alone) or None, None, None


def _ask_driver(command: str, *fields: str) -> list[list[str]]:
    """One row of ``fields`` per GPU; none from a driver that does not answer."""
    query = [command, f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=_NVIDIA_SMI_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in answer.stdout.splitlines() if line.strip()]
    return rows if all(len(row) == len(fields) for row in rows) else []
