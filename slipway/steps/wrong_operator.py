"""Name the operator that makes an export or an engine answer differently from what it was made from."""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from slipway.engines.base import Arrays, BuildOptions, Engine, RunOptions
from slipway.engines.torch_eager import load_module
from slipway.errors import SlipwayError, UnsupportedError, first_line
from slipway.exports.graph import Graph, Region, regions
from slipway.exports.onnx import translated
from slipway.exports.onnx_graph import OnnxGraph
from slipway.exports.program import capture
from slipway.exports.torch_graph import EagerGraph, ScriptGraph
from slipway.measure.divergence import Deviation, Divergence, deviation, first_divergence
from slipway.records import Form, Signature, TensorSpec

MOST_NAMED = 3


class EngineGraph:
    """An ONNX file as an engine executes it, each value by an engine built from the part that computes it."""

    def __init__(self, runtime: Engine, source: Path, options: BuildOptions) -> None:
        self._runtime, self._source, self._options = runtime, OnnxGraph(source), options
        self.operators = self._source.operators

    def values(self, arrays: Arrays, names: Sequence[str]) -> Arrays:
        """The values ``names`` on the inputs ``arrays``.

        Raises:
            UnsupportedError: one is not fp32, for sizes and indices are the runtime's own business.
            SlipwayError: the engine does not build from the part alone.
        """
        if not all(map(self._source.is_fp32, names)):
            raise UnsupportedError(f"values {', '.join(names)} are not all fp32")
        with tempfile.TemporaryDirectory(prefix="slipway-part-") as folder:
            part, built = Path(folder) / "part.onnx", Path(folder) / f"engine{self._runtime.suffix}"
            read = self._source.write_part(names, part)
            signature = Signature(
                inputs=tuple(spec for spec in self._options.signature.inputs if spec.name in read),
                outputs=tuple(TensorSpec(name=name, dtype="float32", shape=()) for name in names),
            )
            self._runtime.build(part, built, self._options.model_copy(update={"signature": signature}))
            with self._runtime.load(built, RunOptions()) as session:
                answers = session.infer({name: arrays[name] for name in read})
                return {name: np.array(answers[name]) for name in names}


def in_export(program: Path, exported: Path, form: Form, inputs: Arrays, signature: Signature) -> str:
    """In words, the first operator in which the file ``exported`` differs from the model ``program`` on ``inputs``."""

    def graphs() -> tuple[Graph, Graph]:
        import torch

        module = load_module(program)
        if not isinstance(module, torch.fx.GraphModule):
            raise UnsupportedError("the model was registered as TorchScript, whose names its exports do not keep")
        if form is Form.ONNX:
            return EagerGraph(translated(module, inputs, signature), signature), OnnxGraph(exported)
        candidate = load_module(exported)
        if isinstance(candidate, torch.fx.GraphModule):
            captured = capture(module, inputs, signature).module()
            return EagerGraph(captured, signature), EagerGraph(candidate, signature)
        assert isinstance(candidate, torch.jit.ScriptModule)
        return EagerGraph(module, signature), ScriptGraph(candidate, signature)

    return _in_words(graphs, inputs, signature)


def in_engine(runtime: Engine, source: Path, inputs: Arrays, options: BuildOptions) -> str:
    """In words, the first operator in which an engine differs from the ONNX file ``source`` that it was built from."""

    def graphs() -> tuple[Graph, Graph]:
        if runtime.form is not Form.ONNX:
            raise UnsupportedError(f"engine {runtime.name} does not build from ONNX, which alone can be taken apart")
        return OnnxGraph(source), EngineGraph(runtime, source, options)

    return _in_words(graphs, inputs, options.signature)


def _in_words(graphs: Callable[[], tuple[Graph, Graph]], inputs: Arrays, signature: Signature) -> str:
    try:
        return _first_wrong(*graphs(), inputs, [spec.name for spec in signature.outputs])
    except Exception as error:  # noqa: BLE001 - a rejection stands, whatever becomes of its explanation
        reason = str(error) if isinstance(error, SlipwayError) else first_line(error)
        return f"no operator can be named: {reason}"


def _first_wrong(reference: Graph, candidate: Graph, inputs: Arrays, outputs: Sequence[str]) -> str:
    shared = _made_by(reference) & _made_by(candidate)

    @functools.cache
    def measured(value: str) -> Deviation:
        try:
            expected, found = (graph.values(inputs, [value])[value] for graph in (reference, candidate))
        except SlipwayError:
            shared.discard(value)
            raise
        return deviation(expected, found)

    while ends := shared.intersection(outputs):
        between = regions(candidate.operators, shared)
        try:
            output = max(sorted(ends), key=measured)
            found = first_divergence({value: region.sources for value, region in between.items()}, output, measured)
        except SlipwayError:
            continue  # without the value that one of both could not give
        if found is None:
            return "no single operator stands out"
        return _sentence(found, between[found.value], regions(reference.operators, shared)[found.value])
    raise UnsupportedError("both graphs share none of the outputs' names")


def _made_by(graph: Graph) -> set[str]:
    return {name for operator in graph.operators for name in operator.outputs}


def _sentence(found: Divergence, region: Region, model: Region) -> str:
    which = " or ".join(map(str, region.computing[:MOST_NAMED]))
    if len(region.computing) > MOST_NAMED:
        which += f" or one of {len(region.computing) - MOST_NAMED} more"
    if len(region.computing) > 1 and model.computing != region.computing:
        which += f", which compute {' and '.join(map(str, model.computing[-MOST_NAMED:]))}"
    far = "another shape, NaN or infinity"
    if math.isfinite(found.deviation.max_abs_diff):
        far = f"max difference {found.deviation.max_abs_diff:.3g}"
    near = f"agree within {found.before.max_abs_diff:.1g}" if found.before.max_abs_diff else "are equal"
    return f"first operator that differs: {which}: {far} at its output {found.value}; its inputs {near}"
