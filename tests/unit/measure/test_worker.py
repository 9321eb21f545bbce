from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from slipway.measure import protocol
from slipway.measure.arrays import Arrays, Infer, read_arrays
from slipway.measure.worker import serve


class Engine:
    """Doubles its input, and remembers how it was used."""

    def __init__(self) -> None:
        self.opened: list[int] = []
        self.open = 0
        self.batches: list[int] = []

    @contextmanager
    def load(self, threads: int) -> Iterator[Infer]:
        self.opened.append(threads)
        self.open += 1
        assert self.open == 1, "two engines at once would count as memory"
        yield self.infer
        self.open -= 1

    def infer(self, inputs: Arrays) -> Arrays:
        self.batches.append(len(inputs["x"]))
        return {"y": np.asarray(inputs["x"]) * 2}


def talk(engine: Engine, *requests: protocol.Request) -> tuple[int, list[str]]:
    stdin = io.StringIO("".join(request.model_dump_json() + "\n" for request in requests))
    stdout = io.StringIO()
    status = serve(engine.load, lambda batch: {"x": np.arange(batch)}, stdin, stdout)
    ready, *answers = stdout.getvalue().splitlines()
    assert protocol.Ready.model_validate_json(ready)
    return status, answers


def test_every_request_has_its_answer() -> None:
    engine = Engine()
    status, answers = talk(
        engine,
        protocol.Load(threads=1, batch=3),
        protocol.WarmUp(max_seconds=0.2),
        protocol.Block(calls=20),
        protocol.Throughput(batch=4, seconds=0.02),
        protocol.Check(),
        protocol.Finish(),
    )
    assert status == 0
    assert protocol.Loaded.model_validate_json(answers[0]).load_seconds >= 0
    protocol.Settled.model_validate_json(answers[1])
    assert len(protocol.Samples.model_validate_json(answers[2]).ns) == 20
    assert protocol.Rate.model_validate_json(answers[3]).examples_per_s > 0
    outputs = protocol.Outputs.model_validate_json(answers[4])
    assert read_arrays(io.BytesIO(base64.b64decode(outputs.npz)))["y"].tolist() == [0, 2, 4]
    assert protocol.Finished.model_validate_json(answers[5]).peak_rss_bytes > 2**20
    assert set(engine.batches) == {3, 4}


def test_loading_again_closes_what_was_open() -> None:
    engine = Engine()
    talk(engine, protocol.Load(threads=1, batch=1), protocol.Load(threads=2, batch=1))
    assert engine.opened == [1, 2]


def test_the_end_of_stdin_ends_the_loop_and_closes_the_engine() -> None:
    engine = Engine()
    assert talk(engine, protocol.Load(threads=1, batch=1))[0] == 0
    assert engine.open == 0


def test_untimed_calls_lead_into_a_block() -> None:
    engine = Engine()
    talk(engine, protocol.Load(threads=1, batch=1), protocol.Block(calls=1))
    assert len(engine.batches) >= 1 + 2


def test_an_error_is_told_and_ends_the_loop(capsys: pytest.CaptureFixture[str]) -> None:
    status, answers = talk(Engine(), protocol.Block(calls=1), protocol.Finish())
    failed = protocol.Failed.model_validate_json(answers[-1])
    assert (status, len(answers), failed.kind) == (1, 1, "InfrastructureError")
    assert "load first" in failed.error
    assert "Traceback" in capsys.readouterr().err
