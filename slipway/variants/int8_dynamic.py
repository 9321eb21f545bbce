"""The int8-dynamic variant: int8 weights; activations are quantized as they come, so no calibration is needed."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.errors import RejectedError, UnsupportedError, first_line
from slipway.variants.qdq import prepared
from slipway.variants.root_logger import quiet_root_logger

if TYPE_CHECKING:
    import onnx
    import torch

PER_CHANNEL_ENGINES = ("x86", "fbgemm", "onednn")
INT8 = "_int8"  # ending of the modules that take the place of linear layers
FLOAT_OPERATORS = (
    *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    *("lstm", "gru", "rnn_tanh", "rnn_relu", "matmul", "bmm", "scaled_dot_product_attention"),
    *("Conv", "ConvTranspose", "GRU", "RNN"),
)
ONNX_TYPES = ("MatMul", "Gemm", "LSTM", "Attention")
QUANTIZED_TYPES = {"MatMulInteger": "MatMul or Gemm", "DynamicQuantizeLSTM": "LSTM", "QAttention": "Attention"}


def quantize_linears(module: torch.nn.Module) -> torch.fx.GraphModule:
    """A copy of an exported GraphModule whose linear layers with constant weights run in int8.

    Weights are quantized per output channel where PyTorch's quantized engine can, else per tensor. The copy scripts to
    TorchScript; ``torch.export`` does not take it.

    Raises:
        UnsupportedError: the module is no exported program, or has no linear layer.
    """
    import torch

    if not isinstance(module, torch.fx.GraphModule):
        raise UnsupportedError(
            f"int8-dynamic of PyTorch is made from an exported program, not from {type(module).__name__}; "
            "register the model as pt2, or use an engine that builds from ONNX"
        )
    quantized = _copy(module)
    linears = quantized.graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default)
    layers = [node for node in linears if all(_is_float_constant(module, one) for one in node.args[1:])]
    if not layers:
        raise UnsupportedError(
            f"int8-dynamic: the model has no Linear layer with constant float32 weights{_instead(_operators(module))}"
        )
    for node in layers:
        data, *constants = node.args
        quantized.add_module(f"{node.name}{INT8}", _int8_linear(*(_constant(module, one) for one in constants)))
        node.op, node.target, node.args = "call_module", f"{node.name}{INT8}", (data,)
    quantized.graph.eliminate_dead_code()
    return torch.fx.GraphModule(quantized, quantized.graph)  # keeps what the graph uses: no float weights


def told(quantized: torch.fx.GraphModule) -> str:
    """What `quantize_linears` quantized and what stays in fp32, in words."""
    operators = _operators(quantized)
    int8 = sum(node.op == "call_module" and str(node.target).endswith(INT8) for node in quantized.graph.nodes)
    return f"{int8} of {int8 + operators['linear']} Linear in int8{_instead(operators)}"


def _operators(module: torch.fx.GraphModule) -> Counter[str]:
    calls = (str(node.target) for node in module.graph.nodes if node.op == "call_function")
    return Counter(call.split(".")[-2] for call in calls if call.startswith("aten."))


def _instead(operators: Counter[str]) -> str:
    """The operators that also multiply and that this variant leaves alone, in words."""
    others = ", ".join(f"{operators[kind]} {kind}" for kind in FLOAT_OPERATORS if operators[kind])
    return f"; in fp32 stay {others}" if others else ""


def _copy(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Another graph over the same weights."""
    import torch

    graph = torch.fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    graph.set_codegen(module.graph._codegen)
    return torch.fx.GraphModule(module, graph)


def _is_float_constant(module: torch.fx.GraphModule, argument: Any) -> bool:
    import torch

    if argument is None:
        return True
    return argument.op == "get_attr" and _constant(module, argument).dtype is torch.float32


def _constant(module: torch.fx.GraphModule, argument: Any) -> Any:
    if argument is None:
        return None
    owner, _, name = str(argument.target).rpartition(".")
    return getattr(module.get_submodule(owner), name).detach()


def _int8_linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.nn.Module:
    import torch
    from torch.ao import quantization
    from torch.ao.nn.quantized import dynamic

    per_channel = torch.backends.quantized.engine in PER_CHANNEL_ENGINES
    linear: Any = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight = torch.nn.Parameter(weight)
    linear.bias = None if bias is None else torch.nn.Parameter(bias)
    linear.qconfig = quantization.per_channel_dynamic_qconfig if per_channel else quantization.default_dynamic_qconfig
    with warnings.catch_warnings():
        # Quantized tensors still run in torch 2.13 and are what TorchScript executes in int8.
        warnings.filterwarnings("ignore", r"torch\.quantize_per_tensor, torch\.quantize_per_channel and", UserWarning)
        int8: torch.nn.Module = dynamic.Linear.from_float(linear)  # type: ignore[no-untyped-call]
    return int8


def quantize_onnx_dynamic(source: Path, out: Path) -> tuple[str, ...]:
    """Write an fp32 ONNX file's int8-dynamic form and return what was quantized, in words.

    MatMul and Gemm with constant weights, LSTM and Attention get s8 weights per channel; convolutions stay in fp32,
    because ONNX Runtime's ConvInteger is slower than its fp32 convolution.

    Raises:
        UnsupportedError: the model has no such layer.
        RejectedError: ONNX Runtime cannot quantize the model.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = prepared(source)  # the exporter leaves the weights of a large LSTM to be computed; here they are constants
    del model.graph.value_info[:]  # shapes of the float tensors would contradict the quantized ones
    _give_own_weights(model)
    try:
        with quiet_root_logger():
            quantize_dynamic(model, out, list(ONNX_TYPES), per_channel=True, weight_type=QuantType.QInt8)
    except Exception as error:
        raise RejectedError(f"int8-dynamic: ONNX Runtime cannot quantize the model: {first_line(error)}") from error
    quantized = onnx.load(out)
    del quantized.graph.value_info[:]  # the quantizer inferred them for itself; runtimes infer their own
    onnx.save(quantized, out)
    counts = Counter(node.op_type for node in quantized.graph.node)
    notes = tuple(f"{counts[kind]} {layer} in int8" for kind, layer in QUANTIZED_TYPES.items() if counts[kind])
    if not notes:
        out.unlink()
        none = f"int8-dynamic: the model has no {', '.join(ONNX_TYPES)} with constant weights"
        raise UnsupportedError(f"{none}{_instead(counts)}")
    return notes


def _give_own_weights(model: onnx.ModelProto) -> None:
    """Copy weights that a Gemm shares: ONNX Runtime's quantizer transposes them in place, once for every such Gemm."""
    initializers = {one.name: one for one in model.graph.initializer}
    uses = Counter(name for node in model.graph.node for name in node.input)
    for index, node in enumerate(model.graph.node):
        name = node.input[1] if node.op_type == "Gemm" else ""
        if name in initializers and uses[name] > 1:
            uses[name] -= 1
            own = model.graph.initializer.add()
            own.CopyFrom(initializers[name])
            own.name = node.input[1] = f"{name}_of_{index}"
