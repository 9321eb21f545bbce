"""Whether an engine is stale: built and measured where something else decides how fast and how exactly it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from slipway.errors import BadInputError
from slipway.records import Evidence, Hardware, Option

# Every runtime here is PyTorch's, or runs on its kernels.
TORCH_FAMILY = ("torch", "torchscript", "inductor")
GPU_ENGINES = ("tensorrt", "tensorrt-rtx")
_GPU_WORDS = ("cuda", "gpu", "tensorrt")
_BYTES_PER_KIB = 1024


def stale(evidence: Evidence, here: Hardware) -> tuple[str, ...]:
    """Why what was measured on an engine does not hold on the host ``here``, in words; empty while it does.

    Of the runtimes only the engine's own counts, and PyTorch where it is one of PyTorch's; of the GPU, only where the
    engine uses one. What either side does not tell (a record older than the question) is not held against it.
    """
    built_on, name = evidence.hardware, evidence.spec.engine
    reasons = [*_processor(built_on, here), *_runtimes(name, built_on, here)]
    if _uses_gpu(name, evidence.options):
        reasons += _gpu(built_on, here)
    return tuple(reasons)


def require_fresh(evidence: Evidence, here: Hardware) -> None:
    """Refuse an engine that is stale on the host ``here``, which must not serve.

    Raises:
        BadInputError: it is, with the reasons and the command that builds it anew.
    """
    if reasons := stale(evidence, here):
        raise BadInputError(
            f"engine {evidence.spec} of {evidence.model_uri} is stale: {'; '.join(reasons)}; "
            f"run `{rebuild_command(evidence)}` here to build it anew"
        )


def rebuild_command(evidence: Evidence) -> str:
    """The command that builds and measures the engine anew, on the host where it is run."""
    return f"slipway release {evidence.model_uri} --target {evidence.spec.target}"


def _processor(built_on: Hardware, here: Hardware) -> Iterator[str]:
    if (built_on.cpu, built_on.machine) != (here.cpu, here.machine):
        yield f"built on {built_on.cpu} ({built_on.machine}), this host is {here.cpu} ({here.machine})"
    if lacking := [flag for flag in built_on.isa if flag not in here.isa]:
        yield f"built with {', '.join(lacking)}, which this host lacks"
    if added := [flag for flag in here.isa if flag not in built_on.isa]:
        yield f"built without {', '.join(added)}, which this host has"
    if built_on.caches and here.caches and built_on.caches != here.caches:
        yield f"caches {_caches(built_on)}, here {_caches(here)}"
    if built_on.cores != here.cores:
        yield f"measured on {_cores(built_on)}, this host gives {here.cores}"


def _cores(hardware: Hardware) -> str:
    return f"{hardware.cores} core{'' if hardware.cores == 1 else 's'}"


def _caches(hardware: Hardware) -> str:
    return ", ".join(f"{name} {size // _BYTES_PER_KIB} KiB" for name, size in hardware.caches.items())


def _runtimes(name: str, built_on: Hardware, here: Hardware) -> Iterator[str]:
    for runtime in dict.fromkeys((name, "torch") if name in TORCH_FAMILY else (name,)):
        version, found = built_on.runtimes.get(runtime), here.runtimes.get(runtime)
        if version is not None and version != found:
            yield f"{runtime} {version}, here {found or 'not installed'}"


def _gpu(built_on: Hardware, here: Hardware) -> Iterator[str]:
    if built_on.gpu != here.gpu:
        yield f"GPU {built_on.gpu or 'none'}, here {here.gpu or 'none'}"
        return
    for what, version, found in (
        ("compute capability", built_on.compute_capability, here.compute_capability),
        ("driver", built_on.driver, here.driver),
    ):
        if version is not None and found is not None and version != found:
            yield f"{what} {version}, here {found}"


def _uses_gpu(name: str, options: Mapping[str, Option]) -> bool:
    """Whether the engine runs on a GPU: because it always does, or as the options of this file say."""
    return name in GPU_ENGINES or any(word in str(value).lower() for value in options.values() for word in _GPU_WORDS)
