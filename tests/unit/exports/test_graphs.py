"""Whatever form a model is in, its intermediate values can be asked for by the same names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from slipway.engines.torch_eager import load_module
from slipway.errors import UnsupportedError
from slipway.exports.graph import Graph, Operator, Region, regions
from slipway.exports.onnx import export_onnx, translated
from slipway.exports.onnx_graph import OnnxGraph
from slipway.exports.torch_graph import EagerGraph, ScriptGraph
from slipway.exports.torchscript import export_torchscript
from tests.unit.exports.models import Mlp, NamedOutputs, ResidualNet, TextNet, TwoByTwo, batch_of, loaded_program, make


def made_by(graph: Graph) -> set[str]:
    return {name for operator in graph.operators for name in operator.outputs}


@pytest.mark.parametrize("kind", [ResidualNet, NamedOutputs, TextNet])
def test_an_onnx_export_has_the_values_of_the_graph_that_it_was_translated_from(
    kind: type[nn.Module], tmp_path: Path
) -> None:
    model, example, signature = make(kind)
    export_onnx(model, example, signature, tmp_path / "m.onnx")
    eager, file = EagerGraph(translated(model, example, signature), signature), OnnxGraph(tmp_path / "m.onnx")
    shared = sorted(made_by(eager) & made_by(file))
    inputs = batch_of(signature, 3, seed=1)

    assert {spec.name for spec in signature.outputs} < set(shared)
    one, other = eager.values(inputs, shared), file.values(inputs, shared)
    for name in shared:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [ResidualNet, TwoByTwo, NamedOutputs, Mlp])
def test_a_script_has_the_values_of_the_graph_that_it_was_made_from(kind: type[nn.Module], tmp_path: Path) -> None:
    model, example, signature = make(kind)
    program = loaded_program(model, example, signature)
    export_torchscript(program, example, signature, tmp_path / "m.ts")
    script = load_module(tmp_path / "m.ts")
    assert isinstance(script, torch.jit.ScriptModule)
    eager, other = EagerGraph(program, signature), ScriptGraph(script, signature)
    shared = sorted(made_by(eager) & made_by(other))
    inputs = batch_of(signature, 3, seed=1)

    assert {spec.name for spec in signature.outputs} < set(shared)
    for name in shared:
        (value,) = eager.values(inputs, [name]).values()
        np.testing.assert_allclose(other.values(inputs, [name])[name], value, rtol=1e-4, atol=1e-5)


def test_what_is_no_tensor_is_told(tmp_path: Path) -> None:
    model, example, signature = make(TextNet)
    program = loaded_program(model, example, signature)
    with pytest.raises(UnsupportedError, match="value lstm is no tensor"):
        EagerGraph(program, signature).values(example, ["lstm"])
    export_torchscript(program, example, signature, tmp_path / "m.ts")
    script = load_module(tmp_path / "m.ts")
    assert isinstance(script, torch.jit.ScriptModule)
    graph = ScriptGraph(script, signature)
    size = next(operator for operator in graph.operators if operator.kind == "aten::size")
    with pytest.raises(UnsupportedError, match="is no tensor"):
        graph.values(example, size.outputs[:1])


def test_a_part_holds_nothing_but_what_its_values_need(tmp_path: Path) -> None:
    model, example, signature = make(TwoByTwo)
    export_onnx(model, example, signature, tmp_path / "m.onnx")
    graph = OnnxGraph(tmp_path / "m.onnx")
    first = graph.operators[0]

    assert graph.write_part(first.outputs, tmp_path / "part.onnx") == ("left",)

    part = onnx.load(tmp_path / "part.onnx")
    onnx.checker.check_model(part)
    assert [node.name for node in part.graph.node] == [first.name]
    assert {tensor.name for tensor in part.graph.initializer} <= set(first.inputs)
    assert graph.is_fp32(first.outputs[0])


def test_a_part_keeps_what_a_branch_reads_from_around_it(tmp_path: Path) -> None:
    def branch(name: str, kind: str) -> onnx.GraphProto:
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(kind, ["doubled"], [name])], name, [], [value])

    nodes = [
        helper.make_node("Add", ["x", "x"], ["doubled"], name="double"),
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], then_branch=branch("a", "Neg"), else_branch=branch("b", "Abs")),
        helper.make_node("Exp", ["y"], ["z"]),
    ]
    x, z = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xz")
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [z], [zero]), opset_imports=[helper.make_opsetid("", 20)]
    )
    model.ir_version = 10
    onnx.save(model, tmp_path / "m.onnx")
    graph = OnnxGraph(tmp_path / "m.onnx")

    values = graph.values({"x": np.array([1.0, 2.0], np.float32)}, ["y"])

    np.testing.assert_array_equal(values["y"], [-2.0, -4.0])
    assert "doubled" in graph.operators[3].inputs


def operator(name: str, inputs: str, kind: str = "Mul") -> Operator:
    return Operator(name, kind, tuple(inputs), (name,))


def test_a_region_reaches_back_to_the_nearest_values_that_can_be_compared() -> None:
    a, b, c, d = operator("a", "x"), operator("b", "a", "Reshape"), operator("c", "bw"), operator("d", "ca")
    assert regions([a, b, c, d], {"a", "d"}) == {"a": Region((), (a,)), "d": Region(("a",), (b, c, d))}
    assert regions([a, b, c, d], {"a", "d"})["d"].computing == (c, d)
    assert Region((), (b,)).computing == (b,)
