"""An ONNX file as a graph whose intermediate values can be asked for, and that can be cut at them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from slipway.exports.calling import Arrays
from slipway.exports.graph import Operator

if TYPE_CHECKING:
    import onnx

SILENT = 4  # ONNX Runtime's severity "fatal": everything below is raised as well as logged


class OnnxGraph:
    """An ONNX file, run operator by operator: by ONNX Runtime with every optimisation switched off."""

    def __init__(self, path: Path) -> None:
        import onnx

        self._model = onnx.load(path)
        self.operators = tuple(
            Operator(node.name or f"#{position}", node.op_type, tuple(_read_by(node)), tuple(filter(None, node.output)))
            for position, node in enumerate(self._model.graph.node)
        )

    def values(self, arrays: Arrays, names: Sequence[str]) -> Arrays:
        """The values ``names`` on the inputs ``arrays``."""
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        settings.log_severity_level = SILENT
        model = self._part(names)
        session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
        given = {value.name: arrays[value.name] for value in model.graph.input}
        return dict(zip(names, session.run(list(names), given), strict=True))

    def write_part(self, names: Sequence[str], out: Path) -> tuple[str, ...]:
        """Write to ``out`` the part of the model that computes ``names``; return the inputs that it takes."""
        part = self._part(names)
        out.write_bytes(part.SerializeToString())
        return tuple(value.name for value in part.graph.input)

    def is_fp32(self, name: str) -> bool:
        """Whether ONNX can tell that the value ``name`` is fp32."""
        import onnx

        return name in self._inferred and self._inferred[name].type.tensor_type.elem_type == onnx.TensorProto.FLOAT

    def _part(self, names: Sequence[str]) -> onnx.ModelProto:
        """The part of the model that computes the values ``names``, which become its outputs."""
        import onnx

        whole = self._model.graph
        needed, nodes = set(names), []
        for node in reversed(whole.node):
            if needed.intersection(node.output):
                needed.update(_read_by(node))
                nodes.append(node)
        graph = onnx.helper.make_graph(
            nodes[::-1],
            whole.name,
            [value for value in whole.input if value.name in needed],
            [self._inferred.get(name, onnx.ValueInfoProto(name=name)) for name in names],
            [initializer for initializer in whole.initializer if initializer.name in needed],
        )
        model = self._model
        return onnx.helper.make_model(
            graph, opset_imports=model.opset_import, ir_version=model.ir_version, functions=model.functions
        )

    @cached_property
    def _inferred(self) -> dict[str, onnx.ValueInfoProto]:
        """Type and shape of every value that ONNX can infer them for."""
        import onnx

        graph = onnx.shape_inference.infer_shapes(self._model).graph
        return {value.name: value for value in (*graph.input, *graph.value_info, *graph.output)}


def _read_by(node: onnx.NodeProto) -> Iterator[str]:
    """What a node reads: its inputs, and what the branches and loops inside it read from around them."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            for inner in graph.node:
                yield from _read_by(inner)
