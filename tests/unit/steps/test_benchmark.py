from __future__ import annotations

import gzip
import json
import multiprocessing
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slipway.config import LatencyParams, TargetParams
from slipway.errors import BadInputError, NotMeasuredError, RejectedError
from slipway.measure.plan import Participant, ParticipantTiming, SessionTimings, TimingPlan
from slipway.records import Artifact, Built, DataSource, Failure, Form, Rebuild, Timed, Validated, Verdict
from slipway.steps import benchmark as module
from slipway.steps.benchmark import Timings, benchmark, find_champion, host_to_itself
from slipway.steps.budget import TimeLimit
from slipway.steps.validate import validate
from slipway.stores.objects import ObjectStore
from slipway.stores.registry import RegisteredEngine
from tests.fakes.evidence import HARDWARE
from tests.fakes.registry import FakeRegistry
from tests.unit.steps.material import Material
from tests.unit.steps.records import ACCURACY, BUILT, TIMED, VALIDATED, artifact, failed
from tests.unit.steps.registered import register_engine

QUICK: dict[str, Any] = {
    "rounds": 3,
    "block_ms": 2,
    "warm_up_seconds": 1,
    "throughput_seconds": 0.02,
    "timeout_seconds": 60,
}
ONE_THREAD = TargetParams(engines=("torch", "onnxruntime"), batch=(1, 4))
SHORT = LatencyParams(samples=64, budget_s=10)
SCORES = np.array([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]])


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Few samples, and a lock of the test's own."""

    def plan(**settings: Any) -> TimingPlan:
        return TimingPlan(**QUICK, **settings)

    monkeypatch.setattr(module, "TimingPlan", plan)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def validated(material: Material, built: Built) -> Validated:
    return validate(material.objects, built, material.data, material.predictions, ACCURACY, 1)


def candidate(material: Material, variant: str, engine: str, form: Form) -> tuple[Built, Validated]:
    built = material.built(variant, engine, form)
    return built, validated(material, built)


@pytest.mark.usefixtures("_quick")
def test_a_session_times_every_file_and_tells_apart_those_that_answer_differently_or_break(
    material: Material, tmp_path: Path
) -> None:
    """Two engines, each from its own file; a champion that is no candidate; one whose validated answers were others."""
    onnx, onnx_done = candidate(material, "fp32", "onnxruntime", Form.ONNX)
    openvino, openvino_done = candidate(material, "fp32", "openvino", Form.ONNX)
    other, other_done = candidate(material, "int8-static", "onnxruntime", Form.ONNX)
    damaged_file = tmp_path / "engine.onnx"
    damaged_file.write_bytes(b"no engine at all")
    damaged = onnx.model_copy(update={"artifact": material.objects.put(damaged_file)})
    champion = material.built("int8-dynamic", "onnxruntime", Form.ONNX)
    pairs = [
        (onnx, onnx_done),
        (openvino, openvino_done),
        (other, other_done.model_copy(update={"predictions": _shuffled(material, other_done)})),
        (damaged, onnx_done),
    ]

    timings = benchmark(material.objects, ONE_THREAD, SHORT, material.data, material.reference, pairs, champion)

    assert set(timings.by_digest) == {built.artifact.digest for built, _ in pairs}, "the champion is no candidate"
    for built in (onnx, openvino):
        timed = timings.of(built)
        assert isinstance(timed, Timed), timed
        assert timed.timing.latency.samples >= 64
        assert timed.timing.latency.threads == 1
        assert timed.timing.throughput_per_s.keys() == {"1", "4"}
        assert timed.over_champion is not None
        assert timed.over_champion.value > 0
        assert timed.profile is not None
        assert len(timed.profile.layers) > 0
        assert timed.trace is not None
        assert _is_chrome_trace(material, timed.trace)
    assert timings.reference_profile is not None
    assert timings.reference_trace is not None
    assert _is_chrome_trace(material, timings.reference_trace)
    differing = timings.of(other)
    assert isinstance(differing, Failure)
    assert differing.decision.verdict is Verdict.FAIL
    assert "the timed session answers differently from the validated one (cosine" in differing.decision.reasons[0]
    broken = timings.of(damaged)
    assert isinstance(broken, Failure)
    assert (broken.step, broken.decision.verdict) == ("benchmark", Verdict.ERROR)
    assert "engine onnxruntime wants" in broken.decision.reasons[0]


def _is_chrome_trace(material: Material, trace: Artifact) -> bool:
    stored = material.objects.path(trace).read_bytes()
    content = json.loads(gzip.decompress(stored) if trace.name.endswith(".gz") else stored)
    return len(content["traceEvents"] if isinstance(content, dict) else content) > 0


def test_a_large_trace_is_stored_compressed(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path / "objects")
    small, large = tmp_path / "small.json", tmp_path / "large.json"
    small.write_text("[]")
    large.write_text(json.dumps(["event"] * 200_000))

    assert module._kept(objects, small).name == "trace.json"
    stored = module._kept(objects, large)

    assert stored.name == "trace.json.gz"
    assert stored.size_bytes < large.stat().st_size / 10
    assert gzip.decompress(objects.path(stored).read_bytes()) == large.read_bytes()


def test_params_and_budget_say_how_to_time() -> None:
    target = TargetParams(engines=("torch",), threads=(1, 2), batch=(8,), streams=(1, 4))
    latency = LatencyParams(scenario="server", server_per_s=50, samples=1000, budget_s=60)

    plan = module._plan(target, latency, None)

    assert (plan.threads, plan.batch, plan.streams) == ((1, 2), (8,), (1, 4))
    assert (plan.samples, plan.budget_seconds, plan.halving) == (1000, 60, False)
    assert (plan.scenario, plan.server_per_s) == ("server", 50)
    assert module._plan(target, LatencyParams(), None).scenario is None
    limits = (TimeLimit(seconds=seconds, halving=seconds < 100, promising=()) for seconds in (20, 1000))
    assert module._plan(target, latency, None, budget_scale=3).budget_seconds == 180
    short, long = (module._plan(target, latency, limit, budget_scale=3) for limit in limits)
    assert (short.budget_seconds, short.halving) == (20, True)
    assert (long.budget_seconds, long.halving) == (60, False)


@pytest.mark.integration
@pytest.mark.usefixtures("_quick")
def test_further_builds_are_timed_beside_the_kept_one_and_are_no_candidates(material: Material, tmp_path: Path) -> None:
    """Two that say who they are and run alike, and one that does not run at all, which costs the candidate nothing."""
    import onnx

    kept = material.built("fp32", "onnxruntime", Form.ONNX)
    model = onnx.load(material.objects.path(kept.artifact))
    model.doc_string = "another build"
    onnx.save(model, tmp_path / "engine.onnx")
    other = material.objects.put(tmp_path / "engine.onnx")
    (tmp_path / "engine.onnx").write_bytes(b"no engine at all")
    broken = material.objects.put(tmp_path / "engine.onnx")
    done = validated(material, kept)
    known = [Rebuild(digest=one.digest, size_bytes=one.size_bytes, accuracy=0.5) for one in (other, broken)]
    pairs = [
        (kept.model_copy(update={"rebuilds": (other, broken)}), done.model_copy(update={"rebuilds": tuple(known)}))
    ]

    timings = benchmark(material.objects, ONE_THREAD, SHORT, material.data, material.reference, pairs, None)

    assert timings.by_digest.keys() == {kept.artifact.digest}
    timed = timings.of(kept)
    assert isinstance(timed, Timed), timed
    rebuild, unmeasured = timed.rebuilds
    assert (rebuild.digest, rebuild.size_bytes, rebuild.accuracy) == (other.digest, other.size_bytes, 0.5)
    assert rebuild.latency_p50_ms is not None
    assert rebuild.latency_ratio is not None
    assert rebuild.latency_ratio.lower <= rebuild.latency_ratio.value <= rebuild.latency_ratio.upper
    assert unmeasured == known[1]


OTHER = BUILT.model_copy(update={"artifact": artifact("f"), "rebuilds": (artifact("d"),)})


@pytest.mark.parametrize(
    ("promising", "expected"),
    [
        (None, [(True, False), (True, False), (False, False)]),
        ((OTHER.artifact.digest,), [(False, False), (True, False), (False, True)]),
        ((), [(True, False), (True, False), (False, True)]),
    ],
)
def test_a_further_build_never_pushes_a_candidate_out(
    promising: tuple[str, ...] | None,
    expected: list[tuple[bool, bool]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where no candidate is promising, those count and not their builds; under a limit such builds are brief."""
    monkeypatch.setattr(ObjectStore, "path", lambda store, artifact: Path(artifact.name))
    limit = None if promising is None else TimeLimit(seconds=5, halving=True, promising=promising)
    data = DataSource(path="data", md5="m", files=1, size_bytes=1)

    found = module._participants(ObjectStore(tmp_path), [BUILT, OTHER], data, limit)

    assert list(found) == [BUILT.artifact.digest, OTHER.artifact.digest, artifact("d").digest]
    assert [(one.counts, one.brief) for one in found.values()] == expected


def test_a_further_build_never_counts_and_its_latency_is_paired_with_the_kept_ones(
    material: Material, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Here it takes 1.5 times as long; the champion still comes last, and another build was dropped.

    A third one answers otherwise than the kept one was validated, so that its latency tells nothing.
    """
    kept = material.built("fp32", "onnxruntime", Form.ONNX)
    others = [kept.artifact.model_copy(update={"digest": digest * 64}) for digest in "abc"]
    monkeypatch.setattr(ObjectStore, "path", lambda store, artifact: Path(artifact.name))
    monkeypatch.setattr(module, "load_predictions", lambda *_: ({"y": SCORES}, None))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def timed(microseconds: int, answers: np.ndarray = SCORES) -> ParticipantTiming:
        rounds = {turn: np.full(16, 1000 * microseconds) for turn in range(4)}
        return ParticipantTiming(TIMED.timing, {"y": answers}, rounds)

    def session(reference: Participant, candidates: list[Participant], plan: TimingPlan, *_: object) -> SessionTimings:
        assert [(one.counts, one.stays) for one in candidates] == [(True, False), *[(False, False)] * 3, (True, True)]
        assert plan.budget_seconds == 4 * SHORT.budget_s, "as much for the candidate as it would have alone"
        differing = timed(120, SCORES[:, ::-1])
        return SessionTimings(timed(400), (timed(100), timed(150), NotMeasuredError("lost"), differing, timed(200)))

    monkeypatch.setattr(module, "run_session", session)
    known = tuple(Rebuild(digest=one.digest, size_bytes=one.size_bytes, accuracy=0.5) for one in others)
    pair = (kept.model_copy(update={"rebuilds": tuple(others)}), VALIDATED.model_copy(update={"rebuilds": known}))

    found = benchmark(material.objects, ONE_THREAD, SHORT, material.data, material.reference, [pair], BUILT).of(kept)

    assert isinstance(found, Timed), found
    assert found.over_champion is not None
    assert found.over_champion.value == pytest.approx(2)
    slower, dropped, differing = found.rebuilds
    assert slower.latency_ratio is not None
    assert slower.latency_ratio.value == pytest.approx(1.5)
    assert slower.latency_p50_ms == TIMED.timing.latency.p50_ms
    assert (slower.accuracy, dropped, differing) == (0.5, *known[1:])


def _shuffled(material: Material, done: Validated) -> Any:
    """The predictions of another engine: each example's scores in another order."""
    from slipway.measure.predictions import load_predictions, save_predictions

    outputs, target = load_predictions(material.objects.path(done.predictions))
    with material.objects.new_dir() as folder:
        save_predictions(folder / "predictions.npz", {"logits": outputs["logits"][:, ::-1]}, target)
        return material.objects.put(folder / "predictions.npz")


@pytest.mark.usefixtures("_quick")
def test_more_threads_than_cpus_are_bad_input(material: Material) -> None:
    target = TargetParams(engines=("torch",), threads=(1, 4096))

    with pytest.raises(BadInputError, match=r"^4096 threads on \d+ CPUs"):
        benchmark(material.objects, target, SHORT, material.data, material.reference, [], None)


def test_a_timing_is_found_by_the_digest_of_the_file() -> None:
    other = BUILT.model_copy(update={"artifact": artifact("f")})
    timings = Timings(by_digest={BUILT.artifact.digest: TIMED})

    assert timings.of(BUILT) is TIMED
    for untimed in (other, failed("build")):
        assert timings.of(untimed) == failed(
            "benchmark", Verdict.SKIPPED, "not timed, because an earlier step ended it"
        )


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "objects")


@pytest.fixture
def registered(tmp_path: Path) -> tuple[FakeRegistry, RegisteredEngine]:
    registry = FakeRegistry()
    return registry, register_engine(registry, tmp_path, "digits.x86", b"engine bytes")


def test_there_is_no_champion_before_the_first_promotion(
    registered: tuple[FakeRegistry, RegisteredEngine], objects: ObjectStore
) -> None:
    registry, _ = registered

    assert find_champion(registry, objects, "unheard-of.x86", HARDWARE, []) is None
    assert find_champion(registry, objects, "digits.x86", HARDWARE, []) is None


def test_the_champion_is_found_with_its_file(
    registered: tuple[FakeRegistry, RegisteredEngine], objects: ObjectStore
) -> None:
    registry, engine = registered
    registry.promote("digits.x86", engine.version, None, None)

    champion = find_champion(registry, objects, "digits.x86", HARDWARE, [])

    assert champion is not None
    assert (champion.spec, champion.options) == (engine.evidence.spec, engine.evidence.options)
    assert champion.artifact.digest == engine.digest
    assert objects.path(champion.artifact).read_bytes() == b"engine bytes"
    own = BUILT.model_copy(update={"artifact": champion.artifact})
    assert find_champion(registry, objects, "digits.x86", HARDWARE, [BUILT, own]) == own, "a candidate, if it is one"


def test_a_champion_of_other_hardware_is_not_timed_again(
    registered: tuple[FakeRegistry, RegisteredEngine], objects: ObjectStore
) -> None:
    registry, engine = registered
    registry.promote("digits.x86", engine.version, None, None)
    elsewhere = HARDWARE.model_copy(update={"fingerprint": "0" * 64, "cpu": "another"})

    assert find_champion(registry, objects, "digits.x86", elsewhere, []) is None


def test_a_runtime_that_the_champion_does_not_use_leaves_it_comparable(
    registered: tuple[FakeRegistry, RegisteredEngine], objects: ObjectStore
) -> None:
    registry, engine = registered
    registry.promote("digits.x86", engine.version, None, None)
    here = HARDWARE.model_copy(update={"fingerprint": "0" * 64, "runtimes": {"tvm": "0.27"}})

    champion = find_champion(registry, objects, "digits.x86", here, [])

    assert champion is not None
    assert champion.artifact.digest == engine.digest


def test_the_host_belongs_to_one_benchmark_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Across processes: a second one waits until the first has ended, even if it was killed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    context = multiprocessing.get_context("forkserver")
    holding = context.Event()
    other = context.Process(target=_hold, args=(str(tmp_path), holding), daemon=True)
    other.start()
    assert holding.wait(30)
    entered = threading.Event()

    def enter() -> None:
        with host_to_itself():
            entered.set()

    waiting = threading.Thread(target=enter, daemon=True)
    waiting.start()
    try:
        assert not entered.wait(0.5), "two benchmarks on one host"
    finally:
        other.kill()
        other.join()
    assert entered.wait(30)
    waiting.join(30)


def _hold(folder: str, holding: Any) -> None:
    tempfile.tempdir = folder
    with host_to_itself():
        holding.set()
        threading.Event().wait()


def test_the_last_bits_may_differ_and_so_may_the_number_of_examples() -> None:
    module._check_same_answers({"y": np.vstack([SCORES, SCORES])}, {"y": SCORES + 1e-4})
    module._check_same_answers({"y": SCORES[:1]}, {"y": SCORES})


def test_other_answers_are_refused() -> None:
    with pytest.raises(RejectedError, match=r"\(cosine 0\.9\d+, at least 0\.999 wanted\): .* thread count$"):
        module._check_same_answers({"y": SCORES}, {"y": SCORES + np.array([[0.5, 0, 0], [0, 0, 0]])})


def test_nan_in_the_timed_session_is_refused() -> None:
    with pytest.raises(RejectedError, match="NaN"):
        module._check_same_answers({"y": SCORES}, {"y": SCORES * np.nan})
