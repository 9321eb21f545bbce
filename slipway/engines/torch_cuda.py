"""PyTorch on an NVIDIA GPU: what a program is to run with there, and its session."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slipway.engines.base import Arrays
from slipway.engines.nvidia_gpu import not_on_gpu, require_gpu
from slipway.engines.profiling import batch_of
from slipway.engines.torch_session import TorchSession, use_threads
from slipway.errors import UnsupportedError, first_line
from slipway.records import Record, Signature

if TYPE_CHECKING:
    import torch

LABEL_FILE = "cuda.json"
INSTEAD = "device: cpu"
MOST_GRAPHS = 16
_WARM_UP_CALLS = 3  # libraries choose their kernels and take their workspace in the first calls, not while capturing
_capturing = threading.Lock()  # PyTorch captures one graph at a time in a process
_turn = threading.Condition()
_computing: Counter[bool] = Counter()  # how many calls are at work with TF32, and how many without


class CudaLabel(Record):
    """With what a program runs on a GPU: a CUDA graph for each shape of these batches, and products in TF32 or not."""

    graph_batches: tuple[int, ...] = ()
    tf32: bool = False


class Captured(NamedTuple):
    """A CUDA graph with the tensors that it reads and writes, always at the same addresses."""

    graph: torch.cuda.CUDAGraph
    inputs: Sequence[torch.Tensor]
    outputs: Sequence[torch.Tensor]


def require_cuda(engine: str) -> None:
    """Check that PyTorch reaches an NVIDIA GPU here.

    Raises:
        UnsupportedError: there is none, or PyTorch cannot use it; the message tells which.
    """
    require_gpu(engine, INSTEAD)
    import torch

    if torch.version.cuda is None:
        reason = f"PyTorch {torch.__version__} is built without CUDA; install its CUDA build"
        raise not_on_gpu(engine, reason, INSTEAD)
    if not torch.cuda.is_available():
        reason = f"PyTorch {torch.__version__}, built for CUDA {torch.version.cuda}, does not reach the GPU"
        raise not_on_gpu(engine, f"{reason}; look at the driver with nvidia-smi", INSTEAD)


def module_on(program: torch.export.ExportedProgram, device: str) -> torch.nn.Module:
    """The program's module, with its weights, its constants and the tensors that it makes on ``device``."""
    from torch.export.passes import move_to_device_pass

    return move_to_device_pass(program, device).module()


class CudaSession(TorchSession):
    """A stream of its own, pinned buffers that are reused, and a CUDA graph per shape of the batches of the label.

    What has another batch, or comes when there are `MOST_GRAPHS` graphs, runs eagerly on the same stream.
    """

    def __init__(
        self, module: Callable[..., object], signature: Signature, threads: int, label: CudaLabel, device: str = "cuda"
    ) -> None:
        super().__init__(module, signature, threads)
        import torch

        self._label = label
        self._device = device
        self._alone = threading.Lock()
        self._dtypes = {spec.name: getattr(torch, spec.dtype) for spec in signature.inputs}
        self._pinned: dict[str, torch.Tensor] = {}
        self._graphs: dict[tuple[torch.Size, ...], Captured] = {}
        self._stream: Any = None
        if device == "cuda":
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._stream.wait_stream(torch.cuda.current_stream())  # which the weights came by

    def _run(self, arrays: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        import torch

        use_threads(self._threads)
        with self._alone, computing(self._label.tf32), torch.inference_mode(), torch.cuda.stream(self._stream):
            given = [self._filled(name, arrays[name]) for name in self._input_names]
            if captured := self._graph_of(given, batch_of(arrays)):
                for fixed, one in zip(captured.inputs, given, strict=True):
                    fixed.copy_(one, non_blocking=True)
                captured.graph.replay()
                return self._downloaded(captured.outputs)
            answer = self._module(*[one.to(self._device, non_blocking=True) for one in given])
            return self._downloaded(self._in_order(answer))

    def _graph_of(self, given: Sequence[torch.Tensor], batch: int) -> Captured | None:
        shapes = tuple(one.shape for one in given)
        if batch in self._label.graph_batches and shapes not in self._graphs and len(self._graphs) < MOST_GRAPHS:
            with _capturing:
                self._graphs[shapes] = self._capture(given)
        return self._graphs.get(shapes)

    def _capture(self, given: Sequence[torch.Tensor]) -> Captured:
        import torch

        inputs = [one.to(self._device, copy=True) for one in given]
        for _ in range(_WARM_UP_CALLS):
            self._module(*inputs)
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may go on: in the mode "global" their allocations would end the capture.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                outputs = self._in_order(self._module(*inputs))
        except RuntimeError as error:
            raise UnsupportedError(
                f"engine torch cannot capture this model as a CUDA graph: {first_line(error)}; unset cuda_graphs"
            ) from error
        return Captured(graph, inputs, outputs)

    def _filled(self, name: str, array: npt.NDArray[np.generic]) -> torch.Tensor:
        import torch

        room = self._room(f"input {name}", torch.Size(array.shape), self._dtypes[name])
        room.numpy()[...] = array
        return room

    def _downloaded(self, tensors: Sequence[torch.Tensor]) -> dict[str, npt.NDArray[np.generic]]:
        """The caller's own copies, when all that was started is done."""
        rooms = {}
        for name, tensor in zip(self._output_names, tensors, strict=True):
            rooms[name] = self._room(f"output {name}", tensor.shape, tensor.dtype)
            rooms[name].copy_(tensor, non_blocking=True)
        if self._stream is not None:
            self._stream.synchronize()
        return {name: room.numpy().copy() for name, room in rooms.items()}

    def _room(self, name: str, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        """A tensor in the pinned buffer ``name``, which grows as it is needed."""
        import torch

        nbytes = shape.numel() * dtype.itemsize
        if name not in self._pinned or self._pinned[name].numel() < nbytes:
            pinned = self._device == "cuda"
            self._pinned[name] = torch.empty(max(nbytes, 1), dtype=torch.uint8, pin_memory=pinned)
        return self._pinned[name][:nbytes].view(dtype).view(shape)

    def _close(self) -> None:
        self._graphs.clear()
        self._pinned.clear()
        super()._close()


@contextmanager
def computing(tf32: bool) -> Iterator[None]:
    """Compute with TF32 or without; who wants it otherwise waits, since the setting belongs to the process."""
    with _turn:
        _turn.wait_for(lambda: not _computing[not tf32])
        use_tf32(tf32)
        _computing[tf32] += 1
    try:
        yield
    finally:
        with _turn:
            _computing[tf32] -= 1
            _turn.notify_all()


def use_tf32(wanted: bool) -> None:
    """Let products and convolutions of fp32 round their inputs to TF32, or not; the setting belongs to the process.

    By the older of PyTorch's two ways to say it: torch.export still asks by that one, and fails after the other.
    """
    import torch

    torch.backends.cuda.matmul.allow_tf32 = wanted
    torch.backends.cudnn.allow_tf32 = wanted
