from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from slipway.errors import UnsupportedError
from slipway.measure import protocol
from slipway.measure.arrays import Arrays, Infer, read_arrays
from slipway.measure.throughput import examples_per_s
from slipway.measure.worker import serve
from slipway.records import Profile


class Engine:
    """Doubles its input, and remembers how it was used."""

    def __init__(self) -> None:
        self.opened: list[tuple[int, int]] = []
        self.open = self.most_open = 0
        self.batches: list[int] = []
        self.callers: set[int] = set()

    @contextmanager
    def load(self, threads: int, streams: int) -> Iterator[Infer]:
        self.opened.append((threads, streams))
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        yield self.infer
        self.open -= 1

    def infer(self, inputs: Arrays) -> Arrays:
        self.batches.append(len(inputs["x"]))
        self.callers.add(threading.get_ident())
        return {"y": np.asarray(inputs["x"]) * 2}

    def profile(self, threads: int, arrays: Arrays, calls: int, trace: Path) -> Profile:
        assert self.open == 0, "the profiler opens a session of its own"
        if not trace.parent.exists():
            raise UnsupportedError("this runtime cannot tell;\nit has no profiler")
        trace.write_text("{}")
        return Profile(tool="by hand", layers=(), calls=calls, batch=len(arrays["x"]), threads=threads)


def talk(engine: Engine, *requests: protocol.Request) -> tuple[int, list[str]]:
    stdin = io.StringIO("".join(request.model_dump_json() + "\n" for request in requests))
    stdout = io.StringIO()
    status = serve(engine.load, lambda batch: {"x": np.arange(batch)}, engine.profile, stdin, stdout)
    ready, *answers = stdout.getvalue().splitlines()
    assert protocol.Ready.model_validate_json(ready)
    return status, answers


def test_every_request_has_its_answer(tmp_path: Path) -> None:
    engine = Engine()
    status, answers = talk(
        engine,
        protocol.Load(threads=1, batch=3),
        protocol.WarmUp(window_seconds=0.01, max_seconds=0.2),
        protocol.Block(calls=20),
        protocol.Check(),
        protocol.Throughput(batch=4, threads=1, streams=1, seconds=0.02),
        protocol.Profile(threads=2, batch=5, calls=10, trace=str(tmp_path / "trace.json")),
        protocol.Finish(),
    )
    assert status == 0
    loaded = protocol.Loaded.model_validate_json(answers[0])
    assert loaded.load_seconds >= 0
    assert loaded.first_inference_seconds > 0
    protocol.Settled.model_validate_json(answers[1])
    assert len(protocol.Samples.model_validate_json(answers[2]).ns) == 20
    outputs = protocol.Outputs.model_validate_json(answers[3])
    assert read_arrays(io.BytesIO(base64.b64decode(outputs.npz)))["y"].tolist() == [0, 2, 4]
    (rate,) = protocol.Rates.model_validate_json(answers[4]).examples_per_s
    assert rate > 0
    profiled = protocol.Profiled.model_validate_json(answers[5])
    assert profiled.profile == Profile(tool="by hand", layers=(), calls=10, batch=5, threads=2)
    assert protocol.Finished.model_validate_json(answers[6]).peak_rss_bytes > 2**20
    assert set(engine.batches) == {3, 4}
    assert engine.most_open == 1, "two engines at once would count as memory"


def test_streams_are_callers_at_once_of_one_engine() -> None:
    engine = Engine()
    request = protocol.Throughput(batch=1, threads=2, streams=3, seconds=0.02)
    status, answers = talk(engine, protocol.Load(threads=1, batch=1), request, protocol.Finish())
    assert (status, len(answers)) == (0, 3)
    assert engine.opened == [(1, 1), (2, 3)]
    assert engine.most_open == 1
    assert len(engine.callers) == 1 + 3


def test_a_runtime_that_cannot_be_profiled_says_why_and_is_no_failure(tmp_path: Path) -> None:
    request = protocol.Profile(threads=1, batch=1, calls=10, trace=str(tmp_path / "nowhere" / "trace.json"))
    status, answers = talk(Engine(), request, protocol.Finish())
    assert status == 0
    assert protocol.Profiled.model_validate_json(answers[0]) == protocol.Profiled(
        profile=None, reason="this runtime cannot tell;"
    )


@pytest.mark.parametrize("error", [IndexError("list index out of range"), RuntimeError("line 1\nline 2")])
def test_a_profiler_that_stumbles_is_no_failure_either(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    class Stumbling(Engine):
        def profile(self, *_: object) -> Profile:
            raise error

    request = protocol.Profile(threads=1, batch=1, calls=10, trace="nowhere")
    status, answers = talk(Stumbling(), request, protocol.Finish())
    assert status == 0
    protocol.Finished.model_validate_json(answers[1])
    profiled = protocol.Profiled.model_validate_json(answers[0])
    assert profiled.profile is None
    assert profiled.reason == f"{type(error).__name__}: {str(error).splitlines()[0]}"
    assert "Traceback" in capsys.readouterr().err


def test_an_engine_is_closed_when_asked_and_may_be_opened_again() -> None:
    engine = Engine()
    load = protocol.Load(threads=1, batch=1)
    status, answers = talk(engine, load, protocol.Close(), load, protocol.Close(), protocol.Block(calls=1))
    assert (status, engine.open, engine.opened) == (1, 0, [(1, 1), (1, 1)])
    protocol.Closed.model_validate_json(answers[1])
    assert "load first" in protocol.Failed.model_validate_json(answers[-1]).error


def test_windows_of_one_opening_are_told_one_by_one() -> None:
    engine = Engine()
    request = protocol.Throughput(batch=1, threads=1, streams=2, seconds=0.01, windows=3)
    _, answers = talk(engine, request, protocol.Finish())
    rates = protocol.Rates.model_validate_json(answers[0]).examples_per_s
    assert len(rates) == 3
    assert min(rates) > 0
    assert engine.opened == [(1, 2)]


def test_an_error_of_one_caller_ends_the_others_too() -> None:
    calls = iter(range(10))

    def fails_in_its_first_window() -> None:
        if next(calls) > 5:
            raise MemoryError("out of memory")
        time.sleep(0.005)

    with pytest.raises(MemoryError, match="out of memory"):
        examples_per_s([fails_in_its_first_window, lambda: time.sleep(0.001)], 1, 0.05, windows=2)


def test_loading_again_closes_what_was_open() -> None:
    engine = Engine()
    talk(engine, protocol.Load(threads=1, batch=1), protocol.Load(threads=2, batch=1))
    assert engine.opened == [(1, 1), (2, 1)]


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
