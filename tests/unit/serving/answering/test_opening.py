"""How an engine is opened: its stored example decides whether it is the one that was validated."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from slipway.errors import BadInputError, InfrastructureError, RejectedError, TamperedError
from slipway.measure.example import Example, save_example
from slipway.serving.answering import opening
from slipway.serving.answering.local_engine import LocalEngine
from slipway.serving.answering.opening import Ready, opened, opened_beside, opened_in_time
from tests.fakes.multiplier import X, answer, example_file, local


def test_an_engine_that_answers_its_example_as_when_it_was_validated_is_opened(tmp_path: Path) -> None:
    example = example_file(tmp_path / "beside", 2)
    engine = local(tmp_path, 1, 2, companions={example.name: example}, approver="ada", reason="faster")
    model, notes = opened(engine)
    assert notes == ()
    assert (model.version, model.origin.approver, model.origin.example) == ("1", "ada", example)
    np.testing.assert_allclose(model.infer({"x": X})["y"], answer(2))
    model.close()


def test_an_engine_that_answers_its_example_otherwise_is_refused(tmp_path: Path) -> None:
    example = example_file(tmp_path / "beside", 3)
    with pytest.raises(RejectedError, match=r"stored example is answered otherwise .*: fp32 needs a relative"):
        opened(local(tmp_path, 1, 2, companions={example.name: example}))


def test_an_example_of_other_outputs_is_refused(tmp_path: Path) -> None:
    example = tmp_path / "example.npz"
    save_example(example, Example({"x": X}, {"z": answer(2)}, np.zeros(2, np.int64)))
    with pytest.raises(RejectedError, match=r"answered otherwise .*: outputs differ by name"):
        opened(local(tmp_path, 1, 2, companions={example.name: example}))


def test_without_an_example_the_person_is_told(tmp_path: Path) -> None:
    model, notes = opened(local(tmp_path, 1, 2))
    assert notes == ("no example is stored with it: its answers were not compared with those of its validation",)
    model.close()


def test_an_example_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    example = tmp_path / "example.npz"
    example.write_bytes(b"nonsense")
    with pytest.raises(BadInputError, match="cannot read arrays from"):
        opened(local(tmp_path, 1, 2, companions={example.name: example}))


def test_a_file_that_was_changed_is_refused(tmp_path: Path) -> None:
    engine = local(tmp_path, 1, 2)
    engine.path.write_bytes(engine.path.read_bytes() + b"\0")
    with pytest.raises(TamperedError, match="is not the engine file of its evidence"):
        opened(engine)


WAYS = pytest.mark.parametrize("way", [opened_in_time, lambda engine: asyncio.run(opened_beside(engine))])


@WAYS
def test_an_engine_that_opens_in_time_or_refuses_to_is_given_and_refused_as_it_is(
    tmp_path: Path, way: Callable[[LocalEngine], Ready]
) -> None:
    model, _ = way(local(tmp_path, 1, 2))
    np.testing.assert_allclose(model.infer({"x": X})["y"], answer(2))
    model.close()
    bad = local(tmp_path, 2, 2)
    bad.path.write_bytes(b"other")
    with pytest.raises(TamperedError, match="is not the engine file of its evidence"):
        way(bad)


@WAYS
def test_an_engine_that_hangs_while_it_is_opened_is_given_up_and_closed_if_it_comes_after_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Callable[[LocalEngine], Ready]
) -> None:
    ready, go_on, closed = opened(local(tmp_path, 1, 2)), threading.Event(), threading.Event()
    close = ready[0].close

    def hanging(_: LocalEngine) -> Ready:
        assert go_on.wait(30)
        return ready

    monkeypatch.setattr(ready[0], "close", lambda: (close(), closed.set()))
    monkeypatch.setattr(opening, "opened", hanging)
    monkeypatch.setattr(opening, "OPENING_SECONDS", 0.05)
    with pytest.raises(InfrastructureError, match=r"it was not open after 0.05 s: its runtime hangs, or this host is"):
        way(local(tmp_path, 2, 2))
    assert not closed.is_set()
    go_on.set()
    assert closed.wait(30)
