"""ONNX Runtime's quantizers log on the root logger; here that neither configures nor fills it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_root_logger() -> Iterator[None]:
    """Keep a quantizer from configuring logging for the whole process, and its one general advice from being shown."""
    root = logging.getLogger()
    handler = logging.NullHandler()  # a root logger without handlers would be given one that prints

    def other_than_advice(record: logging.LogRecord) -> bool:
        return "Please consider to run pre-processing before quantization" not in record.getMessage()

    root.addHandler(handler)
    root.addFilter(other_than_advice)
    try:
        yield
    finally:
        root.removeFilter(other_than_advice)
        root.removeHandler(handler)
