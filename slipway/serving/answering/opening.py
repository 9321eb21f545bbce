"""How an engine is opened to be served: proven, warmed up, and asked what it was asked when it was validated."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, wait
from threading import Thread
from typing import TypeAlias

import numpy as np

from slipway.decisions.parity import parity_gate
from slipway.errors import InfrastructureError, RejectedError
from slipway.measure.arrays import Array, Arrays
from slipway.measure.example import Example, load_example
from slipway.measure.parity import compare_outputs
from slipway.records import Verdict
from slipway.serving.answering.local_engine import LocalEngine
from slipway.serving.answering.served import ServedModel

OTHERWISE = "its stored example is answered otherwise than in its validation"
OPENING_SECONDS = 600.0  # some engines take a minute

Ready: TypeAlias = tuple[ServedModel, tuple[str, ...]]


def opened_in_time(engine: LocalEngine) -> Ready:
    """`opened`, given up where it takes longer than any engine needs.

    Raises:
        InfrastructureError: it took too long.
        SlipwayError: as `opened`.
    """
    coming = _begun(engine)
    wait([coming], OPENING_SECONDS)
    return _arrived(coming)


async def opened_beside(engine: LocalEngine) -> Ready:
    """`opened_in_time`, while the event loop goes on.

    Raises:
        SlipwayError: as `opened_in_time`.
    """
    coming = _begun(engine)
    waited = asyncio.wrap_future(coming)
    waited.add_done_callback(lambda done: done.cancelled() or done.exception())  # or asyncio complains of it
    await asyncio.wait([waited], timeout=OPENING_SECONDS)
    return _arrived(coming)


def opened(engine: LocalEngine) -> Ready:
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


def _begun(engine: LocalEngine) -> Future[Ready]:
    """`opened` in a thread of its own, for which nobody waits at the end; what comes too late is closed."""
    coming: Future[Ready] = Future()

    def work() -> None:
        try:
            ready = opened(engine)
        except BaseException as error:  # noqa: BLE001 - as a thread pool does, it is raised where it is awaited
            if coming.set_running_or_notify_cancel():
                coming.set_exception(error)
            return
        if coming.set_running_or_notify_cancel():
            coming.set_result(ready)
        else:
            ready[0].close()

    Thread(target=work, name="opening", daemon=True).start()
    return coming


def _arrived(coming: Future[Ready]) -> Ready:
    if coming.cancel():
        raise InfrastructureError(
            f"it was not open after {OPENING_SECONDS:g} s: its runtime hangs, or this host is too slow for it"
        )
    return coming.result()


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
