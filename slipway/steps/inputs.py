"""Summarize a model's inputs once per release, for whoever serves it to tell when requests drift away from them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from slipway.measure.input_summary import INPUTS_FILE, InputDraw
from slipway.records import Artifact, DataSource, InputSummaries, Record, Signature
from slipway.steps.data import CheckedData
from slipway.stores.datasets import batches
from slipway.stores.objects import ObjectStore

READ_BATCH = 256


class InputData(Record):
    """The data whose inputs are summarized, and which of a release's they are."""

    source: Literal["calibration", "test"]
    data: DataSource


def input_data(checked: CheckedData) -> InputData:
    """The calibration data, which stand for what will be asked; without any, the test data."""
    if checked.calibration is not None:
        return InputData(source="calibration", data=checked.calibration)
    return InputData(source="test", data=checked.test)


def summarize_inputs(objects: ObjectStore, signature: Signature, read: InputData) -> Artifact:
    """Write ``inputs.json``: the `InputSummaries` of all inputs that are numbers; the same data give the same bytes."""
    draws = {spec.name: InputDraw() for spec in signature.inputs if np.dtype(spec.dtype).kind in "biuf"}
    names = [spec.name for spec in signature.inputs]
    for batch in batches(Path(read.data.path), names, READ_BATCH, with_target=False):
        for name, draw in draws.items():
            draw.add(batch.inputs[name])
    summaries = tuple(draw.summary(name) for name, draw in draws.items())
    found = InputSummaries(source=read.source, md5=read.data.md5, inputs=summaries)
    with objects.new_dir() as folder:
        path = folder / INPUTS_FILE
        path.write_text(found.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return objects.put(path)
