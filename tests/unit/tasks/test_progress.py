from __future__ import annotations

import inspect
import logging
import string
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed, Running

from slipway.errors import InfrastructureError, NotMeasuredError
from slipway.records import Verdict
from slipway.steps.benchmark import Timings
from slipway.steps.progress import Event
from tasks.benchmark import UnsettledError
from tasks.progress import on_change
from tests.unit.steps.records import BUILT, failed
from tests.unit.tasks.test_policy import TASKS


@pytest.fixture(autouse=True)
def _listening(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "slipway.progress")


def told(caplog: pytest.LogCaptureFixture) -> list[Event]:
    return [record.__dict__["event"] for record in caplog.records]


def change(
    state: State[Any], name: str = "build", run: str = "build bf16/openvino", flow_run_id: object = None
) -> None:
    of_flow = flow_run_id or uuid4()
    on_change(SimpleNamespace(name=name), SimpleNamespace(name=run, flow_run_id=of_flow), state)


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (Running(), Event("bf16/openvino", "build", "running", "")),
        (Completed(data=BUILT), Event("bf16/openvino", "build", "done", "")),
        (Completed(data=BUILT, name="Cached"), Event("bf16/openvino", "build", "cached", "")),
        (Failed(data=InfrastructureError("down")), Event("bf16/openvino", "build", "ERROR", "down")),
        (
            Failed(data=UnsettledError(Timings(by_digest={}))),
            Event("bf16/openvino", "build", "done", "timed, but not for good: the next release measures again"),
        ),
        (Failed(data=NotMeasuredError("too late")), Event("bf16/openvino", "build", "INCONCLUSIVE", "too late")),
        (
            Completed(data=failed("quantize", Verdict.SKIPPED, "no Linear layer")),
            Event("bf16/openvino", "quantize", "SKIPPED", "no Linear layer"),
        ),
        (
            Completed(data=failed("build", Verdict.FAIL, "no"), name="Cached"),
            Event("bf16/openvino", "build", "FAIL", "no"),
        ),
    ],
)
def test_each_change_of_a_candidate_is_one_event(
    state: State[Any], event: Event, caplog: pytest.LogCaptureFixture
) -> None:
    """A Failure is told under the step that failed, which may be an earlier one than the task that handed it on."""
    change(state)

    assert told(caplog) == [event]


def test_a_failure_that_is_handed_on_is_told_once_per_line(caplog: pytest.LogCaptureFixture) -> None:
    flow, quantized, built = uuid4(), failed("quantize", Verdict.SKIPPED, "no"), failed("build", Verdict.SKIPPED, "no")
    change(Completed(data=quantized), "quantize", "quantize bf16 onnx", flow)
    for task, failure in (("build", quantized), ("validate", quantized), ("benchmark", quantized)):
        change(Completed(data=failure), task, f"{task} bf16/openvino", flow)
    for task in ("build", "validate", "benchmark"):
        change(Completed(data=built), task, f"{task} fp16/openvino", flow)

    assert [(event.line, event.step) for event in told(caplog)] == [
        ("bf16 onnx", "quantize"),
        ("bf16/openvino", "quantize"),
        ("fp16/openvino", "build"),
    ]
    change(Completed(data=quantized), "build", "build bf16/openvino", uuid4())
    assert len(told(caplog)) == 4, "another release tells it again"


def test_a_line_may_have_several_words(caplog: pytest.LogCaptureFixture) -> None:
    change(Running(), "export", "export fp32 onnx")

    assert told(caplog) == [Event("fp32 onnx", "export", "running")]


@pytest.mark.parametrize("name", TASKS)
def test_the_name_of_every_run_can_be_made_from_its_arguments(name: str) -> None:
    task = TASKS[name]
    assert isinstance(task.task_run_name, str)
    fields = {field.partition(".")[0] for _, field, _, _ in string.Formatter().parse(task.task_run_name) if field}

    assert fields <= inspect.signature(task.fn).parameters.keys()


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.on_running_hooks])
def test_the_name_of_every_told_run_is_its_step_and_a_line(name: str) -> None:
    step, _, line = str(TASKS[name].task_run_name).partition(" ")

    assert step in {TASKS[name].name, "{word}"}
    assert line
    for hooks in (TASKS[name].on_running_hooks, TASKS[name].on_completion_hooks, TASKS[name].on_failure_hooks):
        assert hooks == [on_change]
