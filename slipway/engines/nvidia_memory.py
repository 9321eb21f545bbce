"""Memory on an NVIDIA GPU for what a runtime is given and answers: PyTorch's where it has CUDA, else cuda-python's."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from slipway.errors import InfrastructureError, UnsupportedError

Array = npt.NDArray[np.generic]


class Memory(Protocol):
    """Named buffers on a GPU that grow as they are needed, and one stream that everything happens on."""

    stream: int

    def upload(self, name: str, array: Array) -> int:
        """Copy ``array`` into the buffer ``name``; its address."""
        ...

    def reserve(self, name: str, nbytes: int) -> int:
        """The address of the buffer ``name``, which holds ``nbytes`` at least."""
        ...

    def download(self, arrays: Mapping[str, Array]) -> None:
        """Fill ``arrays`` from the buffers of their names, when all that was started is done."""
        ...


def gpu_memory() -> Memory:
    """Memory of the first GPU.

    Raises:
        UnsupportedError: neither PyTorch with CUDA nor cuda-python is installed.
    """
    import torch

    if torch.cuda.is_available():
        return TorchMemory("cuda")
    try:
        return CudaMemory(importlib.import_module("cuda.bindings.runtime"))
    except ImportError as error:
        raise UnsupportedError(
            "PyTorch here is built without CUDA, and cuda-python is not installed; pip install one of the two"
        ) from error


class TorchMemory:
    """Buffers in PyTorch's memory."""

    def __init__(self, device: str) -> None:
        import torch

        self._device = device
        self._buffers: dict[str, torch.Tensor] = {}
        self._stream = torch.cuda.Stream() if device == "cuda" else None  # type: ignore[no-untyped-call]
        self.stream = int(self._stream.cuda_stream) if self._stream else 0

    def upload(self, name: str, array: Array) -> int:
        """Copy ``array`` into the buffer ``name``; its address."""
        import torch

        address = self.reserve(name, array.nbytes)
        given = array if array.flags.writeable else array.copy()  # PyTorch warns of memory that it may not write to
        with torch.cuda.stream(self._stream):
            self._buffers[name][: array.nbytes].copy_(_octets(given), non_blocking=True)
        return address

    def reserve(self, name: str, nbytes: int) -> int:
        """The address of the buffer ``name``, which holds ``nbytes`` at least."""
        import torch

        if name not in self._buffers or self._buffers[name].numel() < nbytes:
            with torch.cuda.stream(self._stream):
                self._buffers[name] = torch.empty(max(nbytes, 1), dtype=torch.uint8, device=self._device)
        return self._buffers[name].data_ptr()

    def download(self, arrays: Mapping[str, Array]) -> None:
        """Fill ``arrays`` from the buffers of their names, when all that was started is done."""
        import torch

        with torch.cuda.stream(self._stream):
            for name, array in arrays.items():
                _octets(array).copy_(self._buffers[name][: array.nbytes], non_blocking=True)
        if self._stream:
            self._stream.synchronize()


class CudaMemory:
    """Buffers from the CUDA runtime itself, by cuda-python's ``cuda.bindings.runtime``."""

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self._buffers: dict[str, tuple[int, int]] = {}
        self._stream = self._done(cuda.cudaStreamCreate())
        self.stream = int(self._stream)

    def upload(self, name: str, array: Array) -> int:
        """Copy ``array`` into the buffer ``name``; its address."""
        address = self.reserve(name, array.nbytes)
        self._copy(address, array.ctypes.data, array.nbytes, self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice)
        return address

    def reserve(self, name: str, nbytes: int) -> int:
        """The address of the buffer ``name``, which holds ``nbytes`` at least."""
        address, size = self._buffers.get(name, (0, 0))
        if not address or size < nbytes:
            if address:
                self._done(self._cuda.cudaFree(address))
            self._buffers.pop(name, None)
            address = int(self._done(self._cuda.cudaMalloc(max(nbytes, 1))))
            self._buffers[name] = address, nbytes
        return address

    def download(self, arrays: Mapping[str, Array]) -> None:
        """Fill ``arrays`` from the buffers of their names, when all that was started is done."""
        for name, array in arrays.items():
            kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
            self._copy(array.ctypes.data, self._buffers[name][0], array.nbytes, kind)
        self._done(self._cuda.cudaStreamSynchronize(self._stream))

    def __del__(self) -> None:
        for address, _ in self._buffers.values():
            self._cuda.cudaFree(address)
        self._cuda.cudaStreamDestroy(self._stream)

    def _copy(self, to: int, of: int, nbytes: int, kind: Any) -> None:
        self._done(self._cuda.cudaMemcpyAsync(to, of, nbytes, kind, self._stream))

    def _done(self, result: tuple[Any, ...]) -> Any:
        """What a call of the CUDA runtime answers beside its status."""
        status, *answer = result
        if int(status):
            raise InfrastructureError(f"the CUDA runtime answers {status}; look at the GPU with nvidia-smi")
        return answer[0] if answer else None


def _octets(array: Array) -> Any:
    import torch

    return torch.from_numpy(array.reshape(-1).view(np.uint8))
