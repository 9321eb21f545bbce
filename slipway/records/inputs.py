"""What a model's inputs look like in the data that it was made with, which is what requests are compared with."""

from __future__ import annotations

from typing import Literal

from slipway.records.base import Record


class InputSummary(Record):
    """How the values of one input are distributed: ``n`` of them, drawn from ``examples`` examples.

    Bin i holds the finite values v with ``edges[i - 1] <= v < edges[i]``, and has the share ``shares[i]`` of them; the
    outer two bins have no end, so that there is one share more than there are edges. ``nonfinite`` is the share of NaN
    and the infinities in all values.
    """

    name: str
    edges: tuple[float, ...]
    shares: tuple[float, ...]
    nonfinite: float
    n: int
    examples: int


class InputSummaries(Record):
    """Every input of a model, in the calibration data, or without any in the test data; ``md5`` names the bytes."""

    source: Literal["calibration", "test"]
    md5: str
    inputs: tuple[InputSummary, ...]
