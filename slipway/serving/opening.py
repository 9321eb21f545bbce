"""How an engine is opened to be served: proven, warmed up, and asked what it was asked when it was validated."""

from __future__ import annotations

import numpy as np

from slipway.decisions.parity import parity_gate
from slipway.errors import RejectedError
from slipway.measure.arrays import Array, Arrays
from slipway.measure.example import Example, load_example
from slipway.measure.parity import compare_outputs
from slipway.records import Verdict
from slipway.serving.local_engine import LocalEngine
from slipway.serving.served import ServedModel

OTHERWISE = "its stored example is answered otherwise than in its validation"


def opened(engine: LocalEngine) -> tuple[ServedModel, tuple[str, ...]]:
    """The engine, ready to answer, and what a person should know of it.

    Raises:
        TamperedError: its file's sha256 is not the one in its evidence.
        UnsupportedError: its runtime is not available here.
        BadInputError: it is no file of its runtime's, or its stored example cannot be read.
        RejectedError: it answers its stored example otherwise than when it was validated.
    """
    model = ServedModel(engine.name, engine.version, engine.evidence, engine.path, engine.origin)
    notes = []
    try:
        if model.cold is not None:
            notes.append(f"the first request will find the engine cold: {model.cold}")
        path = engine.origin.example
        example = None if path is None else load_example(path)
        if example is None or not example.outputs:
            notes.append("no example is stored with it: its answers were not compared with those of its validation")
        else:
            _require_parity(model, example)
    except BaseException:
        model.close()
        raise
    return model, tuple(notes)


def _require_parity(model: ServedModel, example: Example) -> None:
    try:
        parity = compare_outputs(example.outputs, _answers(model, example.inputs))
    except RejectedError as error:
        raise RejectedError(f"{OTHERWISE}: {error}") from error
    decision = parity_gate(model.evidence.spec.variant, parity)
    if decision.verdict is not Verdict.PASS:
        raise RejectedError(f"{OTHERWISE}: {'; '.join(decision.reasons)}")


def _answers(model: ServedModel, inputs: Arrays) -> dict[str, Array]:
    """What the engine answers to each example alone, as when it was validated; to as many as it takes if not to one."""
    rows = len(next(iter(inputs.values())))
    size = max([1, *(spec.shape[0] for spec in model.inputs if spec.shape)])
    parts = [
        model.infer({name: array[start : start + size] for name, array in inputs.items()})
        for start in range(0, rows, size)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
