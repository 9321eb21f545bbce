"""Engine ``tvm``: Apache TVM's compiler, for this CPU or, cross-compiled, for another."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from slipway.engines import tvm_library
from slipway.engines.base import Arrays, Availability, BuildOptions, RunOptions, Settings
from slipway.engines.checks import compiler_command, installed, with_compiler
from slipway.engines.profiling import TRACED_CALLS, WARM_UP_CALLS, batch_of, mean_layers, write_trace
from slipway.engines.torch_archive import load_program, require_program
from slipway.engines.tvm_compile import LINKERS, compile_fused, fuse, import_program, layers, link, specialize
from slipway.engines.tvm_schedule import TILES
from slipway.engines.tvm_session import TvmSession
from slipway.engines.tvm_tuning import Tuned, TuningLog, log_path, tune
from slipway.errors import UnsupportedError
from slipway.records import Form, Layer, Option, Profile

if TYPE_CHECKING:
    import tvm

NAME = "tvm"
TOOL = "TVM virtual machine, instrumented"
_EMULATED = "its kernels on CPUs compute in fp32, to which TVM converts each value and back; use openvino or inductor"
_MADE_AS_ONNX = (
    "its importer takes quantize and dequantize nodes as arithmetic around fp32 kernels; use onnxruntime or openvino"
)
REFUSED = dict.fromkeys(("bf16", "fp16"), _EMULATED) | dict.fromkeys(
    ("int8-dynamic", "int8-static", "int8-mixed", "int8-qat"), _MADE_AS_ONNX
)

Word = Annotated[str, Field(pattern=r"\S")]  # an empty one is none


class TvmSettings(Settings):
    """For another CPU than this host's: its LLVM triple, its LLVM name, and the command that links libraries for it.

    ``target: aarch64-linux-gnu, cpu: cortex-a76, linker: aarch64-linux-gnu-gcc``, for example. ``trials`` is how many
    schedules are timed of each kernel of the first batch size, on this host's own CPU; 0 tunes nothing.
    """

    target: Word | None = None
    cpu: Word | None = None
    linker: Word | None = None
    trials: Annotated[int, Field(ge=0, le=len(TILES))] = 0

    @model_validator(mode="after")
    def _timed_where_it_runs(self) -> Self:
        if self.trials and self.target:
            raise ValueError("trials are timed on this host, and target is another; build on it, or leave trials out")
        return self


class TvmEngine:
    """Compiles a program into a library that runs under TVM's runtime alone.

    Any batch is answered by one function, the first batch size of the target by another, whose sizes are all known: in
    one trial 5 to 8% quicker on a ResNet-18, no quicker on a ResNet-20. The same source gives the same answers, but not
    always the same bytes: TVM and LLVM order a few instructions differently from build to build.
    """

    name: ClassVar[str] = NAME
    form: ClassVar[Form] = Form.PROGRAM
    suffix: ClassVar[str] = ".tvm"
    refused: ClassVar[Mapping[str, str]] = REFUSED
    settings: ClassVar[type[Settings]] = TvmSettings

    def availability(self) -> Availability:
        """Whether TVM is installed, and a compiler that links."""
        compiler = compiler_command(*LINKERS)
        return with_compiler(installed(NAME, "apache-tvm", NAME), compiler, compiler.split()[0], "links")

    def build(self, source: Path, out: Path, options: BuildOptions) -> dict[str, Option]:
        """Compile the program, and label it with the signature.

        Raises:
            BadInputError: the source is not a program.
            UnsupportedError: the variant is not fp32, the model was registered as TorchScript, TVM has no import for an
                operator, or nothing here links for the target.
        """
        if reason := self.refused.get(options.variant):
            raise UnsupportedError(f"engine {NAME} cannot execute {options.variant}: {reason}")
        require_program(NAME, source)
        settings = TvmSettings.model_validate(options.settings)
        program = load_program(NAME, source)
        tvm_library.load_runtime()
        import tvm

        target = _target(settings)
        imported = import_program(NAME, program)
        module, batches = specialize(imported, options.batch[:1])
        fused, channels_last = fuse(module, target)
        kernels = layers(fused)
        tuned = _tuned(fused, target, settings.trials)
        library = link(NAME, compile_fused(fused, target, tuned), settings.linker)
        machine = (settings.target or platform.machine()).partition("-")[0]
        label = tvm_library.Label(
            version=tvm.__version__,
            library=tvm_library.sha256(library),
            machine=machine,
            instructions=() if settings.target else tvm_library.instructions(),
            signature=options.signature,
            kernels=kernels,
            batches=batches,
        )
        tvm_library.write(out, library, label)
        told: dict[str, Option] = {"tvm": tvm.__version__, "machine": machine, "channels_last": channels_last}
        if "mcpu" in target.attrs:
            told["cpu"] = str(target.attrs["mcpu"])
        if settings.trials:
            told |= {"trials": settings.trials, "kernels": tuned.kernels, "tuned_kernels": len(tuned.tiles)}
            told["tuning_sha256"] = tuned.sha256
        return told | ({"first_batch": min(batches)} if batches else {})

    def load(self, path: Path, options: RunOptions) -> TvmSession:
        """Open a file that this engine built.

        Raises:
            BadInputError: the file is not one of this engine's.
            UnsupportedError: it was compiled for another kind of CPU.
        """
        label, library = tvm_library.read(NAME, path)
        tvm_library.require_cpu(NAME, label)
        return TvmSession(tvm_library.open_library(library), label, options.threads)

    def profile(self, path: Path, options: RunOptions, arrays: Arrays, calls: int, trace: Path) -> Profile:
        """What a file that this engine built executes, timed around each kernel that TVM's virtual machine calls.

        Raises:
            BadInputError: the file is not one of this engine's.
        """
        with self.load(path, options) as session:
            for _ in range(WARM_UP_CALLS):
                session.infer(arrays)
            spans = [session.timed(arrays) for _ in range(calls)]
        write_trace(trace, (_event(*span) for call in spans[-TRACED_CALLS:] for span in call))
        timed = [
            [kernel.model_copy(update={"time_us": (end - start) / 1e3}) for kernel, start, end in call]
            for call in spans
        ]
        executed = mean_layers(timed)
        return Profile(tool=TOOL, layers=executed, calls=calls, batch=batch_of(arrays), threads=options.threads)


def _tuned(module: tvm.IRModule, target: tvm.target.Target, trials: int) -> Tuned:
    import tvm

    if not trials:
        return Tuned()
    log = TuningLog.read(log_path(tvm.__version__, str(target.attrs["mcpu"])))
    return tune(module, target, trials, log)


def _event(kernel: Layer, start_ns: int, end_ns: int) -> dict[str, Any]:
    span = {"ts": start_ns / 1e3, "dur": (end_ns - start_ns) / 1e3}
    return {"name": kernel.name, "cat": kernel.kind, "ph": "X", "pid": 0, "tid": 0, **span}


def _target(settings: TvmSettings) -> tvm.target.Target:
    import tvm

    _require_known(settings)
    if settings.target is None:
        host = settings.cpu or tvm.get_global_func("target.llvm_get_system_cpu")()
        return tvm.target.Target({"kind": "llvm", "mcpu": host})
    if settings.linker is None or shutil.which(settings.linker.split()[0]) is None:
        found = f"{settings.linker.split()[0]} is not on the PATH" if settings.linker else "there is none"
        raise UnsupportedError(
            f"engine {NAME} links for {settings.target} with the setting 'linker', and {found}; "
            f"set it to a compiler or linker for that target, such as {settings.target}-gcc or ld.lld"
        )
    described = {"kind": "llvm", "mtriple": settings.target}
    return tvm.target.Target(described | ({"mcpu": settings.cpu} if settings.cpu else {}))


def _require_known(settings: TvmSettings) -> None:
    """Ask LLVM whether it knows the target and the CPU: of one that it does not, it warns and then may crash."""
    import tvm
    from tvm.target.codegen import llvm_is_valid_cpu

    target = settings.target or tvm.get_global_func("target.llvm_get_system_triple")()
    if not llvm_is_valid_cpu("generic", target):
        raise UnsupportedError(
            f"engine {NAME}, setting 'target': {target!r} is no triple that LLVM {_llvm_version()} compiles for; "
            "write for example aarch64-linux-gnu"
        )
    if settings.cpu and not llvm_is_valid_cpu(settings.cpu, target):
        raise UnsupportedError(
            f"engine {NAME}, setting 'cpu': LLVM {_llvm_version()} knows no CPU {settings.cpu!r} of {target}; "
            f"`llc -mtriple={target} -mcpu=help` lists them, or leave it out"
        )


def _llvm_version() -> int:
    from tvm.target.codegen import llvm_version_major

    return int(llvm_version_major())
