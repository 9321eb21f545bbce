"""What every engine must do, whatever its runtime; a new engine is one more row of `tests.contract.engines.cases`."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import timeit
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from slipway.decisions.precision import count_precisions
from slipway.engines import ENGINES
from slipway.engines.base import RunOptions
from slipway.engines.streams import load_streams
from slipway.errors import BadInputError, UnsupportedError
from tests.contract.engines import fresh_process
from tests.contract.engines.cases import CASES, Case, case, options_of, runtime_of
from tests.contract.engines.conftest import Build
from tests.contract.engines.tiny import TinyModel

# Largest difference allowed, relative to the largest output.
TOLERANCE = {"bf16": 2e-2, "int8-dynamic": 5e-2, "int8-static": 5e-2}
TRIES = 4  # on a busy host


def _marks(one: Case) -> list[pytest.MarkDecorator]:
    return [pytest.mark.gpu] if one.gpu else [pytest.mark.integration] if one.compiles else []


def _each(cases: Iterable[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", [pytest.param(one.name, marks=_marks(one)) for one in cases])


def _each_variant(cases: Iterable[Case]) -> pytest.MarkDecorator:
    rows = [(one, variant, precision) for one in cases for variant, precision in one.variants.items()]
    params = [
        pytest.param(one.name, variant, precision, marks=_marks(one), id=f"{one.name}-{variant}")
        for one, variant, precision in rows
    ]
    return pytest.mark.parametrize(("name", "variant", "precision"), params)


each_engine, each_variant = _each(CASES), _each_variant(CASES)
RUNNING = [one for one in CASES if one.runs]
each_running, each_running_variant = _each(RUNNING), _each_variant(RUNNING)
PROFILED = [one for one in RUNNING if one.profiles]
each_profiled, each_profiled_variant = _each(PROFILED), _each_variant(PROFILED)


def test_the_suite_covers_every_engine() -> None:
    assert list(dict.fromkeys(one.engine for one in CASES)) == list(ENGINES)
    assert len({one.name for one in CASES}) == len(CASES)


@each_engine
def test_tells_that_it_is_available_and_in_which_version(name: str) -> None:
    availability = runtime_of(name).availability()
    assert availability.engine == case(name).engine
    assert availability.available
    assert availability.version
    assert (availability.reason is None) is availability.runs is case(name).runs


@each_running
@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("kind", ["residual", "two-towers", "transformer"])
def test_fp32_agrees_with_eager_at_any_batch(
    name: str, kind: str, models: dict[str, TinyModel], build: Build, batch: int
) -> None:
    model = models[kind]
    arrays = model.arrays(batch)
    with runtime_of(name).load(build(name, model, "fp32"), RunOptions()) as session:
        outputs = session.infer(arrays)
    expected = model.reference(arrays)
    assert list(outputs) == [spec.name for spec in model.signature.outputs]
    for output, value in expected.items():
        assert outputs[output].dtype == value.dtype
        _assert_near(name, outputs[output], value)


@each_running
def test_one_session_takes_changing_batches(name: str, model: TinyModel, build: Build) -> None:
    with runtime_of(name).load(build(name, model, "fp32"), RunOptions()) as session:
        for batch in (8, 1, 3, 1, 8):
            arrays = model.arrays(batch, seed=batch)
            outputs = session.infer(arrays)
            for output, value in model.reference(arrays).items():
                _assert_near(name, outputs[output], value)


@each_running_variant
def test_variant_stays_near_eager_and_tells_its_precision(
    name: str, variant: str, precision: str, model: TinyModel, build: Build
) -> None:
    arrays = model.arrays(8)
    allowed = case(name).tolerance if variant == "fp32" else TOLERANCE[variant]
    with runtime_of(name).load(_or_skip(build, name, model, variant), RunOptions()) as session:
        outputs = session.infer(arrays)
        executed = session.executed_precision()
    for output, value in model.reference(arrays).items():
        assert np.abs(outputs[output] - value).max() <= allowed * np.abs(value).max()
    if case(name).sessions_tell:
        assert sum(executed.values()) == model.compute_layers
        assert executed[precision] >= 1
    else:
        assert executed == {}


@each_profiled_variant
def test_profile_tells_every_layer_that_multiplies_in_the_precision_it_ran_in(
    name: str, variant: str, precision: str, model: TinyModel, build: Build, tmp_path: Path
) -> None:
    path = _or_skip(build, name, model, variant)
    profile = runtime_of(name).profile(path, RunOptions(), model.arrays(3), calls=20, trace=tmp_path / "trace.json")
    counted = count_precisions(profile.layers)
    assert sum(counted.values()) == model.compute_layers
    assert counted[precision] >= 1
    with runtime_of(name).load(path, RunOptions()) as session:
        assert session.executed_precision() in ({}, counted)


@each_profiled
def test_profile_is_of_the_calls_asked_for_and_has_plausible_times(
    name: str, models: dict[str, TinyModel], build: Build, tmp_path: Path
) -> None:
    """No operator counts twice, or the layers would take longer than the calls that they were part of."""
    path, arrays = build(name, models["residual"], "fp32"), models["residual"].arrays(64)
    for _ in range(TRIES):  # a busy host slows either one; what counts twice does so every time
        with runtime_of(name).load(path, RunOptions()) as session:
            session.infer(arrays)
            seconds = timeit.repeat(partial(session.infer, arrays), number=1, repeat=20)
        profile = runtime_of(name).profile(path, RunOptions(), arrays, calls=20, trace=tmp_path / "trace.json")
        assert (profile.calls, profile.batch, profile.threads) == (20, 64, 1)
        times_us = [layer.time_us for layer in profile.layers]
        assert all(time_us is not None and time_us >= 0 for time_us in times_us)
        assert all(layer.time_us for layer in profile.layers if "conv" in layer.kind.lower())
        # on a GPU, so small a net takes less than what it takes to start its kernels
        least = 0 if case(name).gpu else 0.2 * min(seconds)
        if least < sum(filter(None, times_us)) / 1e6 < 2 * max(seconds):
            break
    else:
        pytest.fail(f"layers take {sum(filter(None, times_us)):.0f} us, calls {max(seconds) * 1e6:.0f} us at most")
    names = [layer.name for layer in profile.layers]
    assert len(set(names)) == len(names)


@each_profiled
def test_trace_of_a_profile_is_a_chrome_trace_of_a_few_calls(
    name: str, models: dict[str, TinyModel], build: Build, tmp_path: Path
) -> None:
    trace = tmp_path / "trace.json"
    path, arrays = build(name, models["residual"], "fp32"), models["residual"].arrays(1)
    runtime_of(name).profile(path, RunOptions(), arrays, calls=30, trace=trace)
    events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    assert all(event["ts"] >= 0 and event["dur"] >= 0 for event in spans)
    assert any("conv" in json.dumps(event).lower() for event in spans)
    assert trace.stat().st_size < 500_000


@each_profiled
def test_profiling_prints_nothing(
    name: str, models: dict[str, TinyModel], build: Build, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, arrays = build(name, models["residual"], "fp32"), models["residual"].arrays(1)
    capfd.readouterr()
    runtime_of(name).profile(path, RunOptions(), arrays, calls=2, trace=tmp_path / "trace.json")
    assert capfd.readouterr() == ("", "")


@each_profiled
def test_damaged_file_is_not_profiled(name: str, model: TinyModel, tmp_path: Path) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(b"junk" * 100)
    with pytest.raises(BadInputError, match=rf"^engine {case(name).engine} wants "):
        runtime_of(name).profile(path, RunOptions(), model.arrays(1), calls=1, trace=tmp_path / "trace.json")


@pytest.mark.parametrize(
    ("name", "variant"),
    [pytest.param(one.name, variant, marks=_marks(one)) for one in CASES for variant in one.refused],
)
def test_refused_variant_comes_with_its_reason(name: str, variant: str, model: TinyModel, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=rf"^engine {case(name).engine} cannot execute {variant}: .{{20}}"):
        runtime_of(name).build(tmp_path, tmp_path / "out", options_of(name, variant, model.signature))


@_each_variant(one for one in CASES if one.same_bytes)
def test_same_source_gives_the_same_bytes(
    name: str, variant: str, precision: str, model: TinyModel, build: Build, tmp_path: Path
) -> None:
    """A candidate's digest must not depend on when, where, or under what name it was built."""
    first = _or_skip(build, name, model, variant)
    runtime = runtime_of(name)
    again = tmp_path / f"again{runtime.suffix}"
    source = shutil.copy(model.files[runtime.form, variant], tmp_path / f"renamed.{runtime.form}")
    runtime.build(Path(source), again, options_of(name, variant, model.signature, 1, 8))
    assert _bytes(again) == _bytes(first)


@each_engine
def test_variants_differ_in_bytes(name: str, models: dict[str, TinyModel], build: Build) -> None:
    files = [_bytes(_or_skip(build, name, models["residual"], variant)) for variant in case(name).variants]
    assert all(one != other for i, one in enumerate(files) for other in files[:i])


@each_running
def test_the_file_knows_the_signature(name: str, model: TinyModel, build: Build) -> None:
    with runtime_of(name).load(build(name, model, "fp32"), RunOptions()) as session:
        assert session.inputs == model.signature.inputs
        assert session.outputs == model.signature.outputs


@each_running
def test_answers_outlive_the_next_call(name: str, model: TinyModel, build: Build) -> None:
    with runtime_of(name).load(build(name, model, "fp32"), RunOptions()) as session:
        first = session.infer(model.arrays(3, seed=1))
        kept = {output: value.copy() for output, value in first.items()}
        session.infer(model.arrays(3, seed=2))
    for output, value in kept.items():
        np.testing.assert_array_equal(first[output], value)


@each_running
def test_callers_at_once_get_their_own_right_answers(name: str, model: TinyModel, build: Build) -> None:
    """More callers than streams, and batches that differ: whoever got another's answer would see it."""
    questions = [model.arrays(1 + number % 3, seed=number) for number in range(12)]
    path = build(name, model, "fp32")
    with (
        load_streams(runtime_of(name), path, RunOptions(streams=3)) as session,
        ThreadPoolExecutor(4) as callers,
    ):
        answers = [answer for _ in range(5) for answer in callers.map(session.infer, questions)]
    for arrays, answer in zip(questions * 5, answers, strict=True):
        for output, value in model.reference(arrays).items():
            _assert_near(name, answer[output], value)


@each_running
def test_takes_read_only_arrays(name: str, model: TinyModel, build: Build) -> None:
    """Arrays decoded from a request's body are read-only."""
    arrays = model.arrays(3)
    for array in arrays.values():
        array.flags.writeable = False
    with runtime_of(name).load(build(name, model, "fp32"), RunOptions()) as session:
        assert session.infer(arrays).keys() == {spec.name for spec in model.signature.outputs}


@each_running
@pytest.mark.parametrize("flaw", ["missing", "unknown", "dtype", "rank", "size"])
def test_wrong_inputs_are_refused_naming_the_expected(name: str, flaw: str, model: TinyModel, build: Build) -> None:
    arrays = model.arrays(2)
    first = model.signature.inputs[0].name
    flawed = {
        "missing": {key: array for key, array in arrays.items() if key != first},
        "unknown": arrays | {"unknown": arrays[first]},
        "dtype": arrays | {first: arrays[first].astype("float64")},
        "rank": arrays | {first: arrays[first][0]},
        "size": arrays | {first: arrays[first][..., 1:]},
    }[flaw]
    with runtime_of(name).load(build(name, model, "fp32"), RunOptions()) as session:
        with pytest.raises(BadInputError, match=rf"^the model takes {first} float32\[-1, .*\n?$") as caught:
            session.infer(flawed)
        assert session.infer(arrays)
    assert "\n" not in str(caught.value)


@_each(one for one in CASES if not one.runs)
def test_a_file_for_other_hardware_is_not_run_here_and_says_what_it_wants(
    name: str, models: dict[str, TinyModel], build: Build
) -> None:
    availability = runtime_of(name).availability()
    assert (availability.available, availability.runs) == (True, False)
    assert availability.reason
    with pytest.raises(UnsupportedError, match=rf"^engine {case(name).engine} cannot run here: .{{20}}"):
        runtime_of(name).load(build(name, models["residual"], "fp32"), RunOptions())


@each_running
@pytest.mark.parametrize("flaw", ["missing", "empty", "truncated", "junk"])
def test_damaged_file_is_refused_in_one_line(
    name: str, flaw: str, models: dict[str, TinyModel], build: Build, tmp_path: Path
) -> None:
    path = tmp_path / f"damaged{runtime_of(name).suffix}"
    good = build(name, models["residual"], "fp32")
    if flaw != "missing":
        shutil.copytree(good, path) if good.is_dir() else shutil.copy(good, path)
    for file in _files(path):
        content = file.read_bytes()
        file.write_bytes({"empty": b"", "truncated": content[: len(content) // 2], "junk": b"junk" * 100}[flaw])
    with pytest.raises(
        BadInputError, match=rf"^engine {case(name).engine} wants .* found .*; build the candidate again$"
    ) as caught:
        runtime_of(name).load(path, RunOptions())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        pytest.param(one.name, other.name, marks=[*_marks(one), *_marks(other)])
        for one, other in itertools.permutations(CASES, 2)
        # eager PyTorch runs TorchScript as well, on purpose
        if one.runs and one.engine != other.engine and (one.engine, other.engine) != ("torch", "torchscript")
    ],
)
def test_file_of_another_engine_is_refused(name: str, other: str, models: dict[str, TinyModel], build: Build) -> None:
    with pytest.raises(BadInputError, match=rf"^engine {case(name).engine} wants "):
        runtime_of(name).load(build(other, models["residual"], "fp32"), RunOptions())


@each_engine
def test_source_of_another_kind_is_refused(name: str, model: TinyModel, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"junk" * 100)
    with pytest.raises(BadInputError, match=rf"^engine {case(name).engine} wants "):
        runtime_of(name).build(source, tmp_path / "out", options_of(name, "fp32", model.signature))


@each_running
def test_a_fresh_process_answers_the_same_quietly_on_the_threads_asked_for(
    name: str, models: dict[str, TinyModel], build: Build, tmp_path: Path
) -> None:
    """A file stands alone; loading and running it prints nothing and warns of nothing."""
    model = models["residual"]
    path = build(name, model, "fp32")
    arrays = model.arrays(8)
    np.savez(tmp_path / "inputs.npz", **arrays)
    outputs = tmp_path / "outputs.npz"
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        fresh_process.__name__,
        case(name).engine,
        path,
        tmp_path / "inputs.npz",
        outputs,
    ]
    root = Path(__file__).parents[3]
    finished = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=60)
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")
    with runtime_of(name).load(path, RunOptions(threads=1)) as session:
        expected = session.infer(arrays)
    with np.load(outputs) as fresh:
        for output, value in expected.items():
            np.testing.assert_allclose(fresh[output], value, rtol=1e-6, atol=1e-7)
        if os.cpu_count() != 1 and not case(name).gpu:  # some runtimes never start more threads than there are cores
            assert fresh[fresh_process.THREADS_AT_2] > fresh[fresh_process.THREADS_AT_1]


def _assert_near(name: str, found: np.ndarray, expected: np.ndarray) -> None:
    """fp32 agrees number by number, TF32 within its tolerance of the largest."""
    if case(name).settings.get("tf32"):
        assert np.abs(found - expected).max() <= case(name).tolerance * np.abs(expected).max()
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def _or_skip(build: Build, name: str, model: TinyModel, variant: str) -> Path:
    """The engine file, unless this CPU has no bfloat16."""
    try:
        return build(name, model, variant)
    except UnsupportedError as error:
        pytest.skip(str(error))


def _files(path: Path) -> list[Path]:
    return sorted(path.iterdir()) if path.is_dir() else [path] if path.exists() else []


def _bytes(path: Path) -> list[bytes]:
    return [file.read_bytes() for file in _files(path)]
