"""The access log: one JSON object per answered request, for a person, a shipper of logs, and the canary."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TextIO

import orjson

from slipway.serving.inference_json import Array
from slipway.serving.served import ServedModel


class AccessLog:
    """Writes lines to ``stream``; to nothing where it is None."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def answered(self, model: ServedModel, request_id: str | None, took_ns: int, outputs: Mapping[str, Array]) -> None:
        """Log an answer: who asked for it, which engine gave it, how long it took in us, and its top-1 classes."""
        if self._stream is None:
            return
        line = {
            "time": time.time(),
            "request_id": request_id,
            "model": model.name,
            "version": model.version,
            "digest": model.digest,
            "latency_us": took_ns // 1000,
            "top1": _top1(outputs),
        }
        self._stream.write(orjson.dumps(line).decode() + "\n")
        self._stream.flush()


def _top1(outputs: Mapping[str, Array]) -> list[int] | None:
    """The most likely class of each example, where the first output is scores of classes."""
    first = next(iter(outputs.values()))
    if first.ndim != 2 or first.dtype.kind != "f":
        return None
    classes: list[int] = first.argmax(1).tolist()
    return classes
