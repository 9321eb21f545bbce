"""Compile one program: ``python -m slipway.engines.inductor_compile REQUEST``; run by the engine ``inductor`` alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.engines.inductor_package import ANY_BATCH, Kernel, Label, checksums, kernels_of, write_package
from slipway.engines.torch_archive import load_program
from slipway.errors import BadInputError, first_line
from slipway.records import Signature

if TYPE_CHECKING:
    import torch

ENGINE = "inductor"
FAILED = 1
_EXPORTERS_LEAST = 2
MODEL = "model"  # PyTorch's own name for the model that a package is loaded for when none is asked for


def main(request: Path) -> int:
    """Compile as the request (JSON) tells; the process's exit status, with the reason as stderr's last line."""
    asked = json.loads(request.read_text(encoding="utf-8"))
    signature = Signature.model_validate(asked["signature"])
    try:
        compile_package(Path(asked["source"]), Path(asked["out"]), signature, tuple(asked["alone"]))
    except BadInputError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command of its own
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - whatever the compiler cannot do
        print(first_line(error), file=sys.stderr)  # noqa: T201 - likewise
        return FAILED
    return 0


def compile_package(source: Path, out: Path, signature: Signature, alone: tuple[int, ...]) -> None:
    """Write the package of the program for any batch, and for each batch size of ``alone`` with code of its own.

    Raises:
        BadInputError: the source is damaged.
    """
    import torch

    torch.manual_seed(0)  # marks the weights of a model beyond 2 GB
    program = load_program(ENGINE, source)
    example = _example(program, signature)
    programs = {MODEL: program} | {f"batch_{batch}": _for_batch(program, example, signature, batch) for batch in alone}
    files: dict[str, list[Path]] = {}
    kernels: dict[str, Kernel] = {}
    for model, one in programs.items():
        written = _compile(model, one, _example(one, signature))
        files[model] = [file for file in written if file.suffix != ".cpp"]
        for file in written:
            if file.name.endswith(".kernel.cpp"):
                kernels |= {f"{model}/{name}": kernel for name, kernel in kernels_of(file.read_text("utf-8")).items()}
    label = Label(
        members=checksums(files),
        models=dict(zip(programs, (ANY_BATCH, *alone), strict=True)),
        cpu=torch.backends.cpu.get_cpu_capability(),
        shapes=tuple(_shape(value) for value in _fakes(program)),
        ranges=_ranges(program),
        kernels=kernels,
    )
    write_package(out, files, label, signature)


def _example(program: torch.export.ExportedProgram, signature: Signature) -> tuple[torch.Tensor, ...]:
    """Inputs that the program takes: those that it was exported with, where it has kept them."""
    import torch

    if program.example_inputs is not None:
        positional, named = program.example_inputs
        return (*positional, *named.values())
    specs = zip(signature.inputs, _fakes(program), strict=True)
    return tuple(torch.zeros([int(n) for n in fake.shape], dtype=getattr(torch, spec.dtype)) for spec, fake in specs)


def _for_batch(
    program: torch.export.ExportedProgram, example: tuple[torch.Tensor, ...], signature: Signature, batch: int
) -> torch.export.ExportedProgram:
    """The same program for one batch size; what else may change in its inputs still may."""
    import torch

    inputs = tuple(one[:1].repeat(batch, *[1] * (one.dim() - 1)) for one in example)
    # Told by tensor: how the inputs are nested does not matter.
    dynamic: Any = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
    for one, spec in zip(inputs, signature.inputs, strict=True):
        axes = {axis: torch.export.Dim.DYNAMIC for axis, size in enumerate(spec.shape) if axis and size == -1}
        if axes:
            dynamic[one] = axes
    module = program.module(check_guards=False)
    return torch.export.export(module, inputs, dynamic_shapes=dynamic if len(dynamic) else None)


def _compile(model: str, program: torch.export.ExportedProgram, inputs: tuple[torch.Tensor, ...]) -> list[Path]:
    """The files of the compiled program, in the cache that the environment names."""
    import torch

    module = program.module(check_guards=False)
    for part in module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # paths of the machine that exported it would go into the bytes
    options: dict[str, Any] = {
        "aot_inductor.package": True,
        "aot_inductor.model_name_for_generated_files": model,
        "aot_inductor.enable_line_tables": False,
        "aot_inductor.precompile_headers": False,  # two models do not earn them back
        "cpp.dynamic_threads": True,
        "cpp.enable_kernel_profile": True,
        "freezing": True,
        "size_asserts": False,  # checks that nobody switches on, with addresses of this process in their messages
    }
    with torch.no_grad():  # or nothing is frozen
        written: Any = torch._inductor.aot_compile(module, inputs, options=options)
    return sorted(Path(file) for file in written)


def _fakes(program: torch.export.ExportedProgram) -> list[torch.Tensor]:
    names = set(program.graph_signature.user_inputs)
    return [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]


def _shape(fake: torch.Tensor) -> tuple[int | str, ...]:
    sizes: tuple[int | torch.SymInt, ...] = tuple(fake.shape)
    return tuple(size if isinstance(size, int) else str(size) for size in sizes)


def _ranges(program: torch.export.ExportedProgram) -> dict[str, tuple[int, int | None]]:
    """The least and the largest size of each symbol; the exporter's least of 2 stands for any: 0 and 1 run alike."""
    return {
        str(symbol): (
            int(found.lower) if found.lower > _EXPORTERS_LEAST else 0,
            int(found.upper) if found.upper.is_Integer else None,
        )
        for symbol, found in program.range_constraints.items()
    }


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
