"""What oneDNN ran inside PyTorch, by its own log: the only word on TorchScript's convolutions and on data types."""

from __future__ import annotations

import ctypes
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from slipway.errors import UnsupportedError

_MARK = "onednn_verbose,v1,"
_EXECUTED = "primitive,exec,"
_DTYPE = re.compile(r"(?:^| )(?:src|data)\w*:(\w+)")


@dataclass(frozen=True)
class Primitive:
    """One executed primitive of oneDNN; it started ``start_us`` after the epoch and took data of ``dtype``."""

    kind: str
    kernel: str
    dtype: str
    shape: str
    start_us: float
    duration_us: float


@contextmanager
def primitives() -> Iterator[list[Primitive]]:
    """The primitives that run inside the context, filled in at its end; none where PyTorch has no oneDNN.

    oneDNN logs on the process's stdout alone, which goes to a file meanwhile.
    """
    import torch

    found: list[Primitive] = []
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # torch's own annotation is missing
        yield found
        return
    os.environ["ONEDNN_VERBOSE_TIMESTAMP"] = "1"  # read when the log is first switched on
    with tempfile.TemporaryFile() as log:
        verbose = torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON)  # type: ignore[no-untyped-call]  # likewise
        with _stdout_to(log.fileno()), verbose:
            yield found
        log.seek(0)
        found.extend(parse(log.read().decode(errors="replace")))


def parse(log: str) -> Iterator[Primitive]:
    """The primitives that a log with start times tells of, in order.

    Of a line's fields, parted by commas, these are read: start in ms, kind (7th), kernel, data, and, at the end, shape
    and duration in ms.

    Raises:
        UnsupportedError: the log has no start times.
    """
    for line in log.splitlines():
        if line.startswith(_MARK + _EXECUTED):
            raise UnsupportedError(
                "oneDNN's log tells no start times, as it was on before they were asked for; unset ONEDNN_VERBOSE"
            )
        if line.startswith(_MARK) and f",{_EXECUTED}" in line:
            fields = line.split(",")
            dtype = _DTYPE.search(fields[9])
            yield Primitive(
                kind=fields[6],
                kernel=fields[7],
                dtype=dtype[1] if dtype else "none",
                shape=fields[-2],
                start_us=float(fields[2]) * 1e3,
                duration_us=float(fields[-1]) * 1e3,
            )


@contextmanager
def _stdout_to(file: int) -> Iterator[None]:
    """Let the process's stdout, also C's, end in an open ``file``."""
    flush = ctypes.CDLL(None).fflush
    flush(None)
    kept = os.dup(1)
    os.dup2(file, 1)
    try:
        yield
    finally:
        flush(None)
        os.dup2(kept, 1)
        os.close(kept)
