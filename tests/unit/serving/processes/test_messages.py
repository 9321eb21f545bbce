"""What the two processes say to each other: whole, in order, and of the same errors."""

from __future__ import annotations

import math
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from slipway.errors import BadInputError, InfrastructureError, SlipwayError, TamperedError
from slipway.serving.answering.batching import Batching
from slipway.serving.http.limits import Limits
from slipway.serving.processes.messages import ORDERS, REPORTS, Answer, Channel, Order, Report, Start, Swap
from slipway.serving.processes.refusals import error_of, outcome_of, refusal_of
from tests.fakes.evidence import ACCURACY, evidence
from tests.fakes.multiplier import local


@pytest.fixture
def ends() -> Iterator[tuple[Channel[Report], Channel[Order]]]:
    """Both ends of a channel."""
    one, other = socket.socketpair()
    with one, other:
        yield Channel(one, REPORTS), Channel(other, ORDERS)


def test_messages_arrive_as_they_were_sent(ends: tuple[Channel[Report], Channel[Order]], tmp_path: Path) -> None:
    supervisor, server = ends
    engine = local(tmp_path, 1, 2, approver="ada", companions={"example.npz": tmp_path / "example.npz"})
    limits = Limits(batch=3, batching=Batching(3, 0.001))
    start = Start(engines=(engine,), refusals={"a": "b"}, limits=limits, restarts=1, folder=tmp_path)
    for message in (start, Answer(), Swap(engine=engine)):
        supervisor.send(message)
    supervisor.close()
    assert list(server.each()) == [start, Answer(), Swap(engine=engine)]


def test_a_figure_that_is_not_a_number_stays_one(ends: tuple[Channel[Report], Channel[Order]], tmp_path: Path) -> None:
    engine = local(tmp_path, 1, 2)
    accuracy = ACCURACY.model_copy(update={"drop": math.nan, "drop_upper": math.inf})
    odd = engine.model_copy(update={"evidence": evidence(engine.evidence.digest, accuracy=accuracy)})
    ends[0].send(Swap(engine=odd))
    (swap,) = ends[1].receive() or ()
    assert isinstance(swap, Swap)
    assert swap.engine.evidence.accuracy is not None
    assert math.isnan(swap.engine.evidence.accuracy.drop)
    assert math.isinf(swap.engine.evidence.accuracy.drop_upper)


def test_a_message_that_comes_in_parts_is_read_once_it_is_whole() -> None:
    one, other = socket.socketpair()
    with one, other:
        channel = Channel(other, ORDERS)
        for part, whole in ((b'{"do": "ans', []), (b'wer"}\n{"do"', [Answer()]), (b': "answer"}\n', [Answer()])):
            one.sendall(part)
            assert channel.receive() == whole


@pytest.mark.parametrize(
    ("error", "outcome", "found", "told"),
    [
        (TamperedError("other bytes"), "tampered", TamperedError, "other bytes"),
        (BadInputError("stale"), "refused", BadInputError, "stale"),
        (InfrastructureError("disk"), "failed", InfrastructureError, "disk"),
        (
            RuntimeError("no\nkernel"),
            "failed",
            InfrastructureError,
            "tiny.x86 version 1 could not be opened: RuntimeError: no",
        ),
    ],
)
def test_an_error_is_the_same_one_in_the_other_process(
    tmp_path: Path, error: Exception, outcome: str, found: type[SlipwayError], told: str
) -> None:
    engine = local(tmp_path, 1, 2)
    raised = error_of(refusal_of(1, error), engine)
    assert (type(raised), str(raised), outcome_of(error)) == (found, told, outcome)


def test_the_process_that_answers_imports_neither_a_registry_nor_a_runtime_before_it_has_to() -> None:
    code = "import sys, slipway.serving.__main__; print({'mlflow', 'torch', 'openvino', 'typer'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
