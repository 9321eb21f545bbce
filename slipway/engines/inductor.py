"""Engine ``inductor``: kernels that PyTorch's compiler wrote ahead of time (AOTInductor)."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from slipway.engines.base import Arrays, Availability, BuildOptions, RunOptions, Settings
from slipway.engines.checks import compiler_command, installed, with_compiler
from slipway.engines.inductor_package import Label, read_label, unpacked
from slipway.engines.inductor_profile import profile_session
from slipway.engines.inductor_session import InductorSession
from slipway.engines.torch_archive import read_signature, require_program
from slipway.engines.torch_session import use_threads
from slipway.errors import BadInputError, InfrastructureError, UnsupportedError
from slipway.records import Form, Option, Profile

NAME = "inductor"
_MADE_AS_ONNX = (
    "Inductor's int8 kernels want a torch.export program with quantize and dequantize nodes, "
    "and this variant is made as ONNX; use onnxruntime or openvino"
)
_SPELLED_SIGNED = (
    "int8 programs are spelled with signed activations, for XNNPACK, and Inductor's int8 kernels take unsigned ones; "
    "use onnxruntime, openvino or executorch"
)
REFUSED = dict.fromkeys(("int8-dynamic", "int8-mixed", "int8-qat"), _MADE_AS_ONNX) | {"int8-static": _SPELLED_SIGNED}
COMPILER = "slipway.engines.inductor_compile"
# Read from the environment, these would change what is compiled, or print.
_OTHERS_SETTINGS = ("TORCHINDUCTOR_", "TORCH_", "AOT_INDUCTOR_", "AOTINDUCTOR_", "TORCHDYNAMO_")


class InductorSettings(Settings):
    """``first_batch_alone``: the first of the target's batch sizes gets code of its own, beside that for any batch.

    Knowing the batch, oneDNN packs the weights of convolutions when it builds; for any batch it does so at every call.
    That made a ResNet-18 at batch 1 a third faster, and its file twice as large.
    """

    first_batch_alone: bool = True


class InductorEngine:
    """Compiles a program in a process of its own, into a package that loads without a compiler."""

    name: ClassVar[str] = NAME
    form: ClassVar[Form] = Form.PROGRAM
    suffix: ClassVar[str] = ".pt2"
    refused: ClassVar[Mapping[str, str]] = REFUSED
    settings: ClassVar[type[Settings]] = InductorSettings

    def availability(self) -> Availability:
        """Whether PyTorch is installed, and the C++ compiler that it builds with."""
        compiler = compiler_command("g++")
        return with_compiler(installed(NAME, "torch", None), compiler, compiler, "compiles")

    def build(self, source: Path, out: Path, options: BuildOptions) -> dict[str, Option]:
        """Compile the program for this CPU, and label it with the signature.

        Raises:
            BadInputError: the source is not a program.
            UnsupportedError: the variant is refused, the model was registered as TorchScript, or cannot be compiled.
            InfrastructureError: the compiling process was ended from outside.
        """
        if reason := self.refused.get(options.variant):
            raise UnsupportedError(f"engine {NAME} cannot execute {options.variant}: {reason}")
        require_program(NAME, source)
        settings = InductorSettings.model_validate(options.settings)
        dynamic = all(spec.shape[:1] == (-1,) for spec in options.signature.inputs)
        alone = options.batch[:1] if settings.first_batch_alone and dynamic else ()
        with TemporaryDirectory() as folder:
            _compile(source, out, options, alone, Path(folder))
        return {"freezing": True, **({"first_batch": alone[0]} if alone else {})}

    def load(self, path: Path, options: RunOptions) -> InductorSession:
        """Open a package that this engine built.

        Raises:
            BadInputError: the file is not one of this engine's.
            UnsupportedError: it was compiled for another kind of CPU.
        """
        label = read_label(NAME, path)
        signature = read_signature(NAME, path)
        _require_cpu(label)
        import torch

        use_threads(options.threads)
        with unpacked(NAME, path, label) as folder:
            models = {
                batch: torch._C._aoti.AOTIModelPackageLoader(str(folder), model, False, 1, -1)
                for model, batch in label.models.items()
            }
        return InductorSession(models, label, signature, options.threads)

    def profile(self, path: Path, options: RunOptions, arrays: Arrays, calls: int, trace: Path) -> Profile:
        """What a package that this engine built executes, told by torch.profiler.

        Raises:
            BadInputError: the file is not one of this engine's.
        """
        with self.load(path, options) as session:
            return profile_session(session, session.label, arrays, calls, options.threads, trace)


def _require_cpu(label: Label) -> None:
    import torch

    if (here := torch.backends.cpu.get_cpu_capability()) != label.cpu:
        raise UnsupportedError(
            f"engine {NAME} cannot run here: the file was compiled for a CPU with {label.cpu}, this one has {here}; "
            "build the candidate again on this host"
        )


def _compile(source: Path, out: Path, options: BuildOptions, alone: tuple[int, ...], folder: Path) -> None:
    """Compile in a process of its own, as Inductor's caches and settings are a process's, and leave nothing behind."""
    request = {
        "source": str(source.resolve()),
        "out": str(folder / "package.pt2"),
        "signature": options.signature.model_dump(mode="json"),
        "alone": alone,
    }
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", COMPILER, str(folder / "request.json")],
        cwd=folder,
        env=_environment(folder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    told = (ran.stderr.strip().splitlines() or ["it told nothing"])[-1]
    if ran.returncode == BadInputError.exit_code:
        raise BadInputError(told)
    if ran.returncode < 0:
        raise InfrastructureError(
            f"engine {NAME} was compiling when signal {-ran.returncode} ended it; see to the host's memory, try again"
        )
    if ran.returncode:
        raise UnsupportedError(f"engine {NAME} cannot compile this model: {told}")
    shutil.copyfile(folder / "package.pt2", out)


def _environment(folder: Path) -> dict[str, str]:
    """The child's: all temporary files in ``folder``, and a compiler that puts no path of this host into its output."""
    compiler = compiler_command("g++")
    wrapper = folder / "bin" / Path(compiler).name
    wrapper.parent.mkdir()
    spec = importlib.util.find_spec("torch")
    torch_root = next(iter(spec.submodule_search_locations or [])) if spec else ""
    maps = [f"-ffile-prefix-map={path}={name}" for path, name in ((folder.resolve(), "build"), (torch_root, "torch"))]
    wrapper.write_text(f'#!/bin/sh\nexec {shlex.join([compiler, *maps])} "$@"\n', encoding="utf-8")
    wrapper.chmod(0o700)
    (folder / "tmp").mkdir()
    root = Path(__file__).parents[2]
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(_OTHERS_SETTINGS)},
        "CXX": str(wrapper),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")])),
        "TMPDIR": str(folder / "tmp"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache"),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "TORCHINDUCTOR_VEC_ISA_OK": "1",  # the CPU's flags tell which vectors it has: no trial of each
        "TRITON_CACHE_DIR": str(folder / "triton"),
    }
