"""Export to ONNX: the form that ONNX Runtime and OpenVINO build from."""

from __future__ import annotations

import io
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from slipway.errors import RejectedError, UnsupportedError, first_line
from slipway.exports.calling import TRACED_BATCH, Arrays, at_batch, exportable, tensors
from slipway.exports.program import capture
from slipway.exports.scripted import DEPRECATED, save_scripted
from slipway.records import Signature, TensorSpec

if TYPE_CHECKING:
    import onnx
    import torch

SCRIPTED_OPSET = 18
LARGEST_BYTES = 2**31 - 1  # of one protobuf message, which an ONNX file is


def export_onnx(module: torch.nn.Module, example: Arrays, signature: Signature, out: Path) -> str:
    """Write the module as one ONNX file named after the signature, and return how, in words.

    Dimension 0 is called ``batch`` where the signature says -1, other dynamic dimensions ``<input>_dim<axis>``. The
    same module gives the same bytes; no source path or stack trace stays inside. A ScriptModule goes through PyTorch's
    older exporter, for the newer one cannot read it.

    Raises:
        BadInputError: the model does not run on the example, or a dimension is fixed that the signature calls dynamic.
        RejectedError: the exporter or the ONNX checker refuses the model.
        UnsupportedError: its weights are more than one ONNX file can hold.
    """
    import onnx
    import torch

    scripted = isinstance(module, torch.jit.ScriptModule)
    _require_room(module)
    source = exportable(module, example, signature) if scripted else capture(module, example, signature)
    try:
        with torch.no_grad(), _quiet_exporter():
            if isinstance(source, torch.export.ExportedProgram):
                model = _from_program(source, signature).model_proto
            else:
                model = _from_script(source, example, signature)
        _name_dimensions(model, signature)
        _strip(model)
        onnx.checker.check_model(model)
        out.write_bytes(model.SerializeToString(deterministic=True))
    except Exception as error:
        raise RejectedError(f"the model cannot be exported to ONNX: {first_line(error)}") from error
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    return f"torch.onnx {'torchscript' if scripted else 'dynamo'}, opset {opset}"


def _require_room(module: torch.nn.Module) -> None:
    """Refuse weights beyond 2 GB: as data beside the file, no step would read or hash them."""
    storages = (tensor.untyped_storage() for tensor in module.state_dict().values())
    needed_bytes = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
    if needed_bytes > LARGEST_BYTES:
        raise UnsupportedError(
            f"the model's weights take {needed_bytes:,} bytes, and one ONNX file holds {LARGEST_BYTES:,}; "
            "use an engine that builds from PyTorch: torch, torchscript or inductor"
        )


def translated(module: torch.nn.Module, example: Arrays, signature: Signature) -> torch.fx.GraphModule:
    """The graph that the exporter translates one by one: its values are called as those of the file are.

    Raises:
        BadInputError, RejectedError: as `export_onnx`.
    """
    import torch

    program = capture(module, example, signature)
    with torch.no_grad(), _quiet_exporter():
        decomposed = _from_program(program, signature).exported_program
    assert decomposed is not None  # None belongs to a program of ONNX operators read from disk
    return decomposed.module()


def _from_program(program: torch.export.ExportedProgram, signature: Signature) -> torch.onnx.ONNXProgram:
    import torch

    exported = torch.onnx.export(
        program,
        dynamo=True,
        input_names=[spec.name for spec in signature.inputs],
        output_names=[spec.name for spec in signature.outputs],
        verbose=False,
    )
    assert exported is not None  # None belongs to the older exporter
    return exported


def _from_script(module: torch.nn.Module, example: Arrays, signature: Signature) -> onnx.ModelProto:
    import onnx
    import torch

    file = io.BytesIO()
    torch.onnx.export(
        _own_copy(module, signature),
        tensors(at_batch(example, signature, TRACED_BATCH), signature),
        file,  # type: ignore[arg-type]  # the older exporter also writes to buffers
        dynamo=False,
        opset_version=SCRIPTED_OPSET,
        input_names=[spec.name for spec in signature.inputs],
        output_names=[spec.name for spec in signature.outputs],
        dynamic_axes={spec.name: _dynamic_axes(spec) for spec in (*signature.inputs, *signature.outputs)},
    )
    return onnx.load_model_from_string(file.getvalue())


def _own_copy(module: torch.nn.Module, signature: Signature) -> torch.jit.ScriptModule:
    """The module read back from its bytes: the older exporter inlines the graph that it is given, for good."""
    import torch

    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        warnings.filterwarnings("ignore", DEPRECATED, DeprecationWarning)
        save_scripted(module, signature, Path(directory) / "module.ts")
        copied: torch.jit.ScriptModule = torch.jit.load(Path(directory) / "module.ts")  # type: ignore[no-untyped-call]
    return copied


def _dynamic_axes(spec: TensorSpec) -> dict[int, str]:
    return {
        axis: "batch" if axis == 0 else f"{spec.name}_dim{axis}" for axis, size in enumerate(spec.shape) if size == -1
    }


def _name_dimensions(model: onnx.ModelProto, signature: Signature) -> None:
    """Give the graph's symbols the signature's names; an output's size may be an expression of several symbols."""
    names: dict[str, str] = {}
    for spec, value in zip(signature.inputs, model.graph.input, strict=True):
        for axis, name in _dynamic_axes(spec).items():
            names.setdefault(value.type.tensor_type.shape.dim[axis].dim_param, name)
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), dim.dim_param)


def _strip(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes (source paths, stack traces) and inner shapes, which would keep the old symbols."""
    model.doc_string = ""
    del model.metadata_props[:]
    graphs = [model.graph]
    while graphs:
        graph = graphs.pop()
        del graph.value_info[:]
        for holder in (graph, *graph.input, *graph.output, *graph.initializer, *graph.node):
            holder.doc_string = ""
            del holder.metadata_props[:]
        for attribute in (attribute for node in graph.node for attribute in node.attribute):
            graphs += [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence what the exporters say of themselves, not of the model."""
    import torch

    registration = logging.getLogger("torch.onnx._internal.exporter._registration")

    def other_than_torchvision(record: logging.LogRecord) -> bool:
        return "torchvision is not installed" not in record.getMessage()

    registration.addFilter(other_than_torchvision)
    # On failure the older exporter shows its graph, whatever ``verbose`` says: then not on stdout, the answer's place.
    torch._C._jit_set_onnx_log_output_stream("stderr")
    try:
        with warnings.catch_warnings():
            # torch 2.13 compares its own pytree specs in a way it deprecates itself.
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            # The older exporter is deprecated, and is the only one that reads a ScriptModule.
            warnings.filterwarnings("ignore", r"You are using the legacy TorchScript-based ONNX", DeprecationWarning)
            warnings.filterwarnings("ignore", r"The feature will be removed\.", DeprecationWarning)
            # A ScriptModule's forward has no Python signature; its inputs are given in order here.
            warnings.filterwarnings("ignore", r"no signature found for <torch.ScriptMethod", UserWarning)
            # A guess about initial states of another batch; parity is measured on real inputs instead.
            warnings.filterwarnings("ignore", r"Exporting a model to ONNX with a batch_size other than 1", UserWarning)
            yield
    finally:
        torch._C._jit_set_onnx_log_enabled(False)  # it leaves the log switched on
        registration.removeFilter(other_than_torchvision)
