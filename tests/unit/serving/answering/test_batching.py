"""Requests that share a call of the engine: which do, what each is answered, and what ends it."""

from __future__ import annotations

import asyncio
import gc
import threading
import traceback
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from starlette.testclient import TestClient

from slipway.engines import engine as engine_named
from slipway.engines.base import RunOptions
from slipway.errors import BadInputError
from slipway.records import Form, Throughput, Timing
from slipway.serving.answering.batching import AskedBatching, Batching, batching_of, read_batching
from slipway.serving.answering.engine_queue import Done, EngineQueue
from slipway.serving.answering.joint_call import FAILED_TRIALS, influence
from slipway.serving.answering.served import ServedModel
from slipway.serving.http.access_log import AccessLog
from slipway.serving.http.app import InferenceServer
from slipway.serving.http.inference_json import Array
from slipway.serving.http.limits import Limits, RefusedError
from tests.fakes.batch_engine import POISON, BatchEngine, tripled
from tests.fakes.evidence import evidence
from tests.unit.serving.asking import INFER, NAME, in_json, logits_of
from tests.unit.steps.material import Material, images

LIMITS = Limits(batch=16, waiting=100, request_seconds=30, drain_seconds=30, batching=Batching(8))
TRIAL = [1, 1, 2]  # the calls that tell whether the engine bears batches


async def there() -> bool:
    return False


def row(*values: float) -> dict[str, Array]:
    """A request of one example."""
    return {"x": np.array([values], np.float32)}


async def held_up(
    queue: EngineQueue, engine: BatchEngine, requests: list[dict[str, Array]]
) -> list[asyncio.Task[Done]]:
    """One request in the engine, which does not go on, and these behind it."""
    engine.go_on.clear()
    engine.begun.clear()
    first = asyncio.create_task(queue.infer(row(0), there))
    assert await asyncio.to_thread(engine.begun.wait, 30)
    behind = [asyncio.create_task(queue.infer(request, there)) for request in requests]
    while queue.waiting < 1 + len(requests):
        await asyncio.sleep(0)
    return [first, *behind]


def answered(engine: BatchEngine, requests: list[dict[str, Array]], limits: Limits = LIMITS) -> list[Done | Exception]:
    """What becomes of requests that wait together behind another one."""

    async def ask() -> list[Done | Exception]:
        queue = EngineQueue(engine.served, limits)
        tasks = await held_up(queue, engine, requests)
        engine.go_on.set()
        _, *ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert await queue.close()
        return ends

    return asyncio.run(ask())


def test_what_waits_together_is_answered_by_one_call_each_with_its_own() -> None:
    engine = BatchEngine()
    ends = answered(engine, [row(1, 2), row(3, 4), {"x": np.array([[5, 6], [7, 8]], np.float32)}])

    assert engine.calls == [1, *TRIAL, 4]
    found = [end.outputs["x"].tolist() for end in ends if isinstance(end, Done)]
    assert found == [[[3, 6]], [[9, 12]], [[15, 18], [21, 24]]]
    assert [(end.examples, end.batch) for end in ends if isinstance(end, Done)] == [(1, 4), (1, 4), (2, 4)]
    assert (engine.statistics.examples, engine.statistics.infer.count) == (5, 2)


def test_the_engine_is_tried_once() -> None:
    engine = BatchEngine()

    async def ask() -> None:
        queue = EngineQueue(engine.served, LIMITS)
        for _ in range(2):
            tasks = await held_up(queue, engine, [row(1), row(2)])
            engine.go_on.set()
            await asyncio.gather(*tasks)

    asyncio.run(ask())
    assert engine.calls == [1, *TRIAL, 2, 1, 2]


def test_without_batching_each_has_its_own_call() -> None:
    engine = BatchEngine()
    answered(engine, [row(1), row(2)], replace(LIMITS, batching=None))
    assert engine.calls == [1, 1, 1]


@pytest.mark.parametrize(
    "other",
    [
        {"x": np.ones((1, 3), np.float32)},
        {"x": np.ones((1, 2), np.float64)},
        {"x": np.ones((1, 2, 1), np.float32)},
        {"y": np.ones((1, 2), np.float32)},
        {"x": np.ones((1, 2), np.float32), "y": np.ones((1, 2), np.float32)},
    ],
)
def test_only_requests_of_the_same_names_types_and_sizes_share_a_call(other: dict[str, Array]) -> None:
    engine = BatchEngine()
    ends = answered(engine, [row(1, 2), other])
    assert engine.calls == [1, 1, 1]
    assert [set(end.outputs) for end in ends if isinstance(end, Done)] == [{"x", "sum_x"}, set(tripled(other))]


def test_arrays_in_another_order_share_a_call_all_the_same() -> None:
    engine = BatchEngine(inputs=("x", "y"))
    x, y = np.ones((1, 2), np.float32), np.zeros((1, 2), np.float32)
    ends = answered(engine, [{"x": x, "y": y}, {"y": y, "x": x}])
    assert engine.calls == [1, *TRIAL, 2]
    assert [end.outputs["x"].tolist() for end in ends if isinstance(end, Done)] == [[[3, 3]], [[3, 3]]]


def test_a_call_is_full_at_the_most_examples_and_who_has_more_goes_alone() -> None:
    engine = BatchEngine()
    answered(engine, [row(1)] * 9 + [{"x": np.ones((9, 1), np.float32)}, {"x": np.ones((7, 1), np.float32)}, row(1)])
    # 8 of the nine; the ninth and the seven; the nine by themselves; the last one.
    assert sorted(engine.calls) == sorted([1, *TRIAL, 8, 9, 8, 1])


def test_a_first_request_waits_for_others_no_longer_than_the_delay_and_not_if_the_call_is_full() -> None:
    for most, delay, calls in ((8, 0.02, [1]), (2, 3600.0, [*TRIAL, 2])):
        engine = BatchEngine()

        async def ask(engine: BatchEngine = engine, most: int = most, delay: float = delay) -> None:
            queue = EngineQueue(engine.served, replace(LIMITS, batching=Batching(most, delay)))
            await asyncio.gather(*[queue.infer(row(1), there) for _ in range(1 if most == 8 else 2)])

        asyncio.run(ask())
        assert engine.calls == calls


def test_closing_answers_at_once_who_waits_for_others() -> None:
    engine = BatchEngine()

    async def ask() -> list[Done]:
        queue = EngineQueue(engine.served, replace(LIMITS, batching=Batching(8, 3600.0)))
        waiting = [asyncio.create_task(queue.infer(row(value), there)) for value in (1, 2)]
        await asyncio.sleep(0)
        assert engine.calls == []
        assert await queue.close()
        return await asyncio.gather(*waiting)

    assert [done.outputs["x"].item() for done in asyncio.run(ask())] == [3, 6]
    assert engine.closed


def test_what_the_engine_has_not_begun_with_after_the_drain_is_refused() -> None:
    engine = BatchEngine()

    async def ask() -> tuple[list[Any], bool]:
        queue = EngineQueue(engine.served, replace(LIMITS, drain_seconds=0.05))
        tasks = await held_up(queue, engine, [row(1), row(2)])
        idle = await queue.close()
        engine.go_on.set()
        return await asyncio.gather(*tasks, return_exceptions=True), idle

    (first, *others), idle = asyncio.run(ask())
    assert (isinstance(first, Done), idle, engine.closed) == (True, False, False)
    assert [str(other) for other in others] == ["the server has closed; try again later"] * 2


def test_one_bad_request_fails_alone_and_its_neighbours_are_answered() -> None:
    engine = BatchEngine()
    good, bad, other = answered(engine, [row(1), row(POISON), row(2)])
    assert isinstance(good, Done)
    assert isinstance(other, Done)
    assert (good.outputs["x"].item(), other.outputs["x"].item()) == (3, 6)
    assert isinstance(bad, ValueError)
    assert engine.calls == [1, *TRIAL, 3, 1, 1, 1]
    assert (engine.statistics.examples, good.batch) == (3, 1)


def test_an_engine_that_takes_fewer_than_asked_for_is_asked_for_half_until_it_answers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def at_most(limit: int) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
        def answer(arrays: Mapping[str, Array]) -> dict[str, Array]:
            if len(arrays["x"]) > limit:
                raise ValueError("too many")
            return tripled(arrays)

        return answer

    async def ask(engine: BatchEngine) -> EngineQueue:
        queue = EngineQueue(engine.served, LIMITS)
        for _ in range(3):
            tasks = await held_up(queue, engine, [row(value) for value in range(8)])
            engine.go_on.set()
            ends = await asyncio.gather(*tasks)
            assert [end.outputs["x"].item() for end in ends[1:]] == [3 * value for value in range(8)]
        return queue

    engine = BatchEngine(at_most(4))
    assert asyncio.run(ask(engine)).alone is None
    assert engine.calls == [1, *TRIAL, 8, *[1] * 8, 1, 4, 4, 1, 4, 4]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("engine", "reason"),
    [
        (BatchEngine(batch=1), "input x has the shape [1, -1], whose first size is no free batch"),
        (
            BatchEngine(lambda arrays: {"x": 3 * arrays["x"].sum(0)}),
            "its outputs do not have the batch as their first dimension",
        ),
        (BatchEngine(lambda arrays: {"x": 3 * arrays["x"].T}), "its outputs do not have the batch"),
        (
            BatchEngine(lambda arrays: {"x": 3 * arrays["x"] / arrays["x"].max(initial=1e-9)}),
            "an example's output x depends on the other examples of its batch",
        ),
        (
            BatchEngine(lambda arrays: {"x": np.flip(3 * arrays["x"], 0)}),
            "an example's output x depends on the other examples of its batch",
        ),
        (
            BatchEngine(lambda arrays: tripled({"x": np.where(len(arrays["x"]) > 1, POISON, arrays["x"])})),
            "it did not answer two examples together: ValueError",
        ),
    ],
)
def test_an_engine_that_does_not_bear_batches_is_asked_one_by_one_and_that_is_told_once(
    engine: BatchEngine, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def ask() -> str | None:
        queue = EngineQueue(engine.served, LIMITS)
        for _ in range(2):
            tasks = await held_up(queue, engine, [row(1), row(2), row(4)])
            engine.go_on.set()
            for end in (await asyncio.gather(*tasks))[1:]:
                assert end.batch == 1
        return queue.alone

    refusal = asyncio.run(ask())
    assert refusal is not None
    assert reason in refusal
    assert capsys.readouterr().err == f"fake: each request is answered by a call of its own: {refusal}\n"


def test_requests_that_the_engine_does_not_take_do_not_decide_whether_it_bears_batches() -> None:
    def strict(arrays: Mapping[str, Array]) -> dict[str, Array]:
        if set(arrays) != {"x"} or arrays["x"].shape[1] == 7:
            raise BadInputError("not what it takes")
        return tripled(arrays)

    engine = BatchEngine(strict)

    async def ask() -> str | None:
        queue = EngineQueue(engine.served, LIMITS)
        for wrong in ({"y": np.ones((1, 2), np.float32)}, {"x": np.ones((1, 7), np.float32)}):
            tasks = await held_up(queue, engine, [wrong, wrong])
            engine.go_on.set()
            first, *ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert isinstance(first, Done)
            assert all(isinstance(end, BadInputError) for end in ends)
        tasks = await held_up(queue, engine, [row(1), row(2)])
        engine.go_on.set()
        assert [end.batch for end in await asyncio.gather(*tasks)] == [1, 2, 2]
        return queue.alone

    assert asyncio.run(ask()) is None


def test_an_engine_that_answers_no_trial_is_not_tried_for_ever(capsys: pytest.CaptureFixture[str]) -> None:
    def answer(arrays: Mapping[str, Array]) -> dict[str, Array]:
        if (arrays["x"] < 1).any():
            raise ValueError("not in its table")
        return tripled(arrays)

    engine = BatchEngine(answer)

    async def ask() -> str | None:
        queue = EngineQueue(engine.served, LIMITS)
        for _ in range(FAILED_TRIALS):
            tasks = await held_up(queue, engine, [row(1), row(2)])
            engine.go_on.set()
            await asyncio.gather(*tasks, return_exceptions=True)
        return queue.alone

    assert asyncio.run(ask()) == "it does not answer the examples of a trial: ValueError"
    assert capsys.readouterr().err.count("\n") == 1


def test_one_that_ran_out_of_time_is_not_run_and_its_neighbours_are() -> None:
    engine = BatchEngine()

    async def ask() -> tuple[list[Any], bool]:
        queue = EngineQueue(engine.served, LIMITS)
        impatient = {"x": np.full((1, 1), 5, np.float32)}
        sent = weakref.ref(impatient["x"])
        tasks = await held_up(queue, engine, [row(1), row(2)])
        leaving = asyncio.create_task(queue.infer(impatient, gone))
        del impatient
        with pytest.raises(RefusedError, match="the client left") as left:
            await leaving
        traceback.clear_frames(left.value.__traceback__)
        del left, leaving
        gc.collect()
        kept = sent() is not None
        engine.go_on.set()
        return await asyncio.gather(*tasks), kept

    async def gone() -> bool:
        return True

    (_, one, two), kept = asyncio.run(ask())
    assert (one.outputs["x"].item(), two.outputs["x"].item(), one.batch, kept) == (3, 6, 2, False)
    assert engine.calls == [1, *TRIAL, 2]


def test_a_call_that_all_have_left_is_not_made() -> None:
    engine = BatchEngine()

    async def gone() -> bool:
        return True

    async def ask() -> None:
        queue = EngineQueue(engine.served, LIMITS)
        (first,) = await held_up(queue, engine, [])
        leaving = [asyncio.create_task(queue.infer(row(value), gone)) for value in (1, 2)]
        ends = await asyncio.gather(*leaving, return_exceptions=True)
        assert all(isinstance(end, RefusedError) for end in ends)
        assert queue.waiting == 1
        engine.go_on.set()
        await first
        assert await queue.close()

    asyncio.run(ask())
    assert engine.calls == [1]


def test_beyond_the_queue_requests_are_sent_away_with_batching_too() -> None:
    engine = BatchEngine()

    async def ask() -> None:
        queue = EngineQueue(engine.served, replace(LIMITS, waiting=3))
        tasks = await held_up(queue, engine, [row(1), row(2)])
        with pytest.raises(RefusedError, match="3 requests wait already"):
            await queue.infer(row(3), there)
        engine.go_on.set()
        await asyncio.gather(*tasks)

    asyncio.run(ask())


SHAPES = st.sampled_from([(), (1,), (2,), (2, 3), (0,)])
DTYPES = st.sampled_from([np.float32, np.float64, np.int8])
REQUESTS = st.builds(
    lambda names, shape, dtype, examples, first: {
        name: (np.arange(examples * int(np.prod(shape)), dtype=dtype) + first + place).reshape(examples, *shape)
        for place, name in enumerate(names)
    },
    st.sampled_from([("x",), ("x", "y"), ("y", "x")]),
    SHAPES,
    DTYPES,
    st.integers(1, 5),
    st.integers(0, int(POISON) + 1),
)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(REQUESTS, min_size=1, max_size=24),
    st.integers(1, 3),
    st.integers(2, 9),
    st.sampled_from([0.0, 0.001]),
)
def test_whatever_comes_together_each_answer_is_that_of_the_request_alone(
    requests: list[dict[str, Array]], streams: int, most: int, delay_s: float
) -> None:
    engine = BatchEngine(streams=streams)

    async def ask() -> list[Any]:
        queue = EngineQueue(engine.served, replace(LIMITS, batching=Batching(most, delay_s)))
        await asyncio.gather(*[queue.infer(row(1), there) for _ in range(2)])  # so that it was tried out
        ends = await asyncio.gather(*[queue.infer(request, there) for request in requests], return_exceptions=True)
        assert await queue.close()
        return ends

    for request, end in zip(requests, asyncio.run(ask()), strict=True):
        try:
            expected = tripled(request)
        except ValueError:
            assert isinstance(end, ValueError)
            continue
        assert isinstance(end, Done), end
        assert list(end.outputs) == list(expected)
        for name, array in expected.items():
            assert end.outputs[name].dtype == array.dtype
            np.testing.assert_array_equal(end.outputs[name], array)
    assert max(engine.calls) <= max(most, *(len(next(iter(one.values()))) for one in requests), 2)


def test_a_run_of_many_threads_mixes_no_answers_up() -> None:
    engine = BatchEngine(streams=2)
    barrier = threading.Barrier(4)

    def client(number: int, queue: EngineQueue, loop: asyncio.AbstractEventLoop) -> None:
        barrier.wait(30)
        for turn in range(100):
            value = 1000 * (number + 1) + turn
            done = asyncio.run_coroutine_threadsafe(queue.infer(row(value), there), loop).result(30)
            assert done.outputs["x"].item() == 3 * value

    async def ask() -> None:
        queue, loop = EngineQueue(engine.served, LIMITS), asyncio.get_running_loop()
        with ThreadPoolExecutor(4) as pool:
            await asyncio.gather(*[loop.run_in_executor(pool, client, one, queue, loop) for one in range(4)])
        assert await queue.close()

    asyncio.run(ask())
    assert engine.statistics.examples == 400
    assert engine.statistics.infer.count < 400


def timing(best: Throughput | None) -> Timing:
    """Evidence whose best setting is this one."""
    found = evidence("a" * 64).timing
    assert found is not None
    return found.model_copy(update={"best_throughput": best, "throughput": (best,) if best else ()})


def test_auto_is_the_batch_that_the_release_found_best() -> None:
    eight = Throughput(batch=8, threads=2, streams=1, examples_per_s=100)
    assert batching_of("auto", timing(eight)) == Batching(8)
    assert batching_of("auto", timing(eight.model_copy(update={"batch": 1}))) is None
    assert batching_of("auto", None) is None
    assert batching_of(Batching(4), timing(eight)) == Batching(4)
    assert batching_of(None, timing(eight)) is None


@pytest.mark.parametrize("best", [1, 8])
def test_a_queue_finds_it_in_its_models_evidence(model: ServedModel, best: int) -> None:
    async def most() -> int:
        queue = EngineQueue(model, replace(LIMITS, batching="auto"))
        done = await asyncio.gather(*[queue.infer({"image": images(1)}, there) for _ in range(9)])
        return max(one.batch for one in done)

    setting = Throughput(batch=best, threads=1, streams=1, examples_per_s=100)
    model.evidence = model.evidence.model_copy(update={"timing": timing(setting)})
    found = asyncio.run(most())
    assert found == 1 if best == 1 else 1 < found <= 8


@pytest.mark.parametrize(
    ("text", "asked"), [("off", None), ("auto", "auto"), ("8", Batching(8)), ("8:2.5", Batching(8, 0.0025))]
)
def test_batching_is_asked_for_in_a_word(text: str, asked: AskedBatching) -> None:
    assert read_batching(text) == asked


@pytest.mark.parametrize("text", ["", "on", "x:1", "8:x", "1", "8:-1", "8:nan", "8:1:2", "1e9"])
def test_what_asks_for_no_batching_is_refused(text: str) -> None:
    with pytest.raises(BadInputError):
        read_batching(text)


def test_the_limits_reach_the_process_that_answers_as_they_are() -> None:
    limits = TypeAdapter(Limits)
    for asked in (None, "auto", Batching(8, 0.5)):
        sent = replace(LIMITS, batching=asked)
        assert limits.validate_json(limits.dump_json(sent)) == sent


@pytest.mark.parametrize(("most", "delay"), [(1, 0.0), (0, 0.0), (2, -0.1), (2, float("nan")), (2, float("inf"))])
def test_settings_that_make_no_sense_are_refused(most: int, delay: float) -> None:
    with pytest.raises(BadInputError, match=r"(was|were) asked for"):
        Batching(most, delay)


@pytest.mark.parametrize(("variant", "joined"), [("fp32", True), ("int8-static", True), ("int8-dynamic", False)])
def test_a_real_engine_is_joined_unless_one_scale_serves_the_whole_batch(
    material: Material, variant: str, joined: bool
) -> None:
    built = material.built(variant, "onnxruntime", Form.ONNX)
    with engine_named("onnxruntime").load(material.objects.path(built.artifact), RunOptions()) as session:
        reason = influence(session.infer, {"image": images(2)})
    assert reason == (None if joined else "an example's output logits depends on the other examples of its batch")


def test_answers_over_http_are_those_of_the_engine_alone(
    model: ServedModel, expected: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, infer, sizes = threading.Event(), threading.Event(), model.infer, list[int]()

    def slow(arrays: Mapping[str, Array]) -> dict[str, Array]:
        sizes.append(len(arrays["image"]))
        begun.set()
        assert go_on.wait(30)
        return infer(arrays)

    monkeypatch.setattr(model, "infer", slow)
    limits = replace(LIMITS, body_bytes=200_000)
    with TestClient(InferenceServer(model, limits, AccessLog(None)).app()) as client, ThreadPoolExecutor(4) as pool:

        def ask(number: int) -> Array:
            response = client.post(INFER, json={"inputs": [in_json(images(3)[number : number + 1])]})
            return logits_of(response)

        first = pool.submit(ask, 0)
        assert begun.wait(30)
        others = [pool.submit(ask, number) for number in (0, 1, 2)]
        while 'in_flight{model="tiny.x86"} 4.0' not in client.get("/metrics").text:
            pass
        go_on.set()
        answers = [one.result(30) for one in (first, *others)]
        (found,) = client.get(f"/v2/models/{NAME}/stats").json()["model_stats"]
    for answer, number in zip(answers, (0, 0, 1, 2), strict=True):
        np.testing.assert_allclose(answer, expected[number : number + 1], rtol=1e-4, atol=1e-5)
    assert sizes == [1, *TRIAL, 3]
    assert (found["inference_count"], found["execution_count"]) == (4, 2)
