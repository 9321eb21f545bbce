from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slipway.canary import NothingToCompareError, contenders, run_canary
from slipway.cli import canary
from slipway.config import load_params
from slipway.errors import BadInputError, RejectedError
from slipway.records import Contender, Phase, Rollout, Verdict
from slipway.rollout.store.lease import this_process
from slipway.rollout.store.rollouts import RolloutStore
from slipway.wiring import Workshop
from tests.fakes.registry import FakeRegistry
from tests.unit.cli.conftest import Slipway
from tests.unit.cli.promoting import promote_without_prefect
from tests.unit.rollout.rollouts import NAME, looked, reading, rollout
from tests.unit.steps.registered import register_engine

PARAMS = "model: models:/digits/1\ndata: {test: data/test}\ntargets: {x86: {engines: [torch]}}\n"


@pytest.fixture
def two(registry: FakeRegistry, tmp_path: Path) -> FakeRegistry:
    """Champion 1 and challenger 2 of ``digits.x86``."""
    for content in (b"one", b"two"):
        register_engine(registry, tmp_path, NAME, content)
    registry.promote(NAME, "1", None, None)
    registry.set_challenger(NAME, "2")
    return registry


@pytest.fixture
def store(project: Path) -> RolloutStore:
    """Where the project keeps its rollouts."""
    shop: Any = Workshop(root=project, objects=None, registry=None)  # type: ignore[arg-type]
    found = shop.rollouts
    assert isinstance(found, RolloutStore)
    return found


@pytest.fixture
def ends(project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let every rollout end so, after it told of one look."""
    (project / "params.yaml").write_text(PARAMS)

    def set_end(end: Rollout | BaseException) -> None:
        def run_canary(
            _: object, params: object, registered: str, version: str | None, report: Any, warn: Any
        ) -> Rollout:
            report(rollout(name=registered, readings=(reading("errors"),)))
            warn("the store did not answer")
            if isinstance(end, BaseException):
                raise end
            return end

        monkeypatch.setattr(canary, "run_canary", run_canary)

    return set_end


@pytest.mark.parametrize(
    ("phase", "code", "verdict"),
    [
        (Phase.PROMOTED, 0, Verdict.PASS),
        (Phase.ROLLED_BACK, 3, Verdict.FAIL),
        (Phase.INCONCLUSIVE, 4, Verdict.INCONCLUSIVE),
        (Phase.ERROR, 5, Verdict.ERROR),
    ],
)
@pytest.mark.usefixtures("registry")
def test_the_exit_code_tells_how_a_rollout_ended(
    phase: Phase, code: int, verdict: Verdict, slipway: Slipway, ends: Callable[..., None]
) -> None:
    ends(rollout(phase=phase, reasons=("because", "of [this]")))

    ended = slipway("canary", "digits", "--target", "x86")

    assert (ended.code, ended.stdout) == (code, f"{verdict}: {phase}: because; of [this]\n")
    assert ended.stderr.splitlines() == [
        "digits.x86 Progressing step 1 of 4, 1% to version 2: 37 of 200 answers at this step; errors INCONCLUSIVE",
        "the store did not answer",
    ]


@pytest.mark.usefixtures("registry")
def test_a_rollout_as_json_is_one_object(slipway: Slipway, ends: Callable[..., None]) -> None:
    ends(looked(300, phase=Phase.PROMOTED, share_percent=0))

    told = slipway("canary", "digits", "--target", "x86", "--json").object

    assert (told["phase"], told["verdict"], told["challenger"]["version"]) == ("Promoted", "PASS", "2")
    assert told["policy"]["steps"] == [1, 5, 25, 50]
    assert {one["gate"] for one in told["readings"]} == {"latency_p95", "errors", "accuracy"}


@pytest.mark.usefixtures("registry")
def test_an_interrupted_controller_tells_what_becomes_of_the_traffic(
    slipway: Slipway, ends: Callable[..., None]
) -> None:
    ends(KeyboardInterrupt())

    ended = slipway("canary", "digits", "--target", "x86")

    assert ended.code == 130
    assert "the traffic stays as it is for 30 s; then all goes to the champion" in ended.stderr


@pytest.mark.usefixtures("two")
def test_without_a_gateway_the_command_that_starts_one_is_named(slipway: Slipway, project: Path) -> None:
    (project / "params.yaml").write_text(PARAMS)

    ended = slipway("canary", "digits", "--target", "x86")

    assert (ended.code, "`slipway gateway digits --target x86`" in ended.stderr) == (5, True)
    assert slipway("canary", "digits", "--target", "arm").code == 2


def test_the_contenders_are_told_apart_by_their_files(two: FakeRegistry, project: Path, tmp_path: Path) -> None:
    shop: Any = Workshop(root=project, objects=None, registry=two)  # type: ignore[arg-type]
    first, second = (two.version(NAME, version) for version in ("1", "2"))

    assert contenders(shop, NAME, None, lambda: (None, None)) == (
        Contender(version="1", digest=first.digest),
        Contender(version="2", digest=second.digest),
    )

    again = register_engine(two, tmp_path, NAME, b"one", code_revision="later")
    with pytest.raises(BadInputError, match="has no version 9"):
        contenders(shop, NAME, "9", lambda: (None, None))
    with pytest.raises(NothingToCompareError, match="is the champion's own file, version 1"):
        contenders(shop, NAME, again.version, lambda: (None, None))
    two.withdraw(NAME, "2", "ada", "no")
    with pytest.raises(NothingToCompareError, match=r"digits\.x86 has no challenger; .* give --version"):
        contenders(shop, NAME, None, lambda: (None, None))
    with pytest.raises(RejectedError, match="cannot be promoted: earlier decision: this file was rolled back"):
        contenders(shop, NAME, "2", lambda: (None, None))
    assert "challenger" not in two.aliases(NAME)
    del two.models[NAME].aliases["champion"]
    with pytest.raises(NothingToCompareError, match="has no champion to compare with"):
        contenders(shop, NAME, "2", lambda: (None, None))


def test_another_version_than_the_one_under_way_is_not_taken_for_it(
    two: FakeRegistry, store: RolloutStore, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop: Any = Workshop(root=project, objects=None, registry=two)  # type: ignore[arg-type]
    (project / "params.yaml").write_text(PARAMS)
    params, brought = load_params(project / "params.yaml"), iter([rollout(phase=Phase.ROLLED_BACK), rollout()])
    monkeypatch.setattr("slipway.rollout.session.run_rollout", lambda *_: next(brought))
    store.save(rollout())

    with pytest.raises(RejectedError, match=r"version 2 is under way; .* `slipway rollback digits --target x86`"):
        run_canary(shop, params, NAME, "3", print, print)

    store.save(rollout(phase=Phase.ROLLED_BACK))
    assert run_canary(shop, params, NAME, "3", print, print).phase is Phase.PROGRESSING, "after what was left to do"


@pytest.mark.usefixtures("registry")
def test_status_tells_the_newest_rollout_of_every_engine(slipway: Slipway, store: RolloutStore) -> None:
    store.save(looked(300))
    store.save(rollout(rollout_id="r2", name="faces.x86", phase=Phase.ROLLED_BACK, reasons=("errors: [many]",)))

    table = slipway("status")
    assert table.code == 0
    row = next(line for line in table.stdout.splitlines() if "digits.x86 │" in line)
    for word in ("Progressing", "1 of 4", "1%", "1970-01-01 00:17:40 UTC", "errors INCONCLUSIVE"):
        assert word in row
    assert "  faces.x86: errors: [many]\n" in table.stdout

    every = slipway("status", "--json").object["rollouts"]
    assert [(one["name"], one["verdict"]) for one in every] == [("digits.x86", None), ("faces.x86", "FAIL")]
    for name in ("faces", "faces.x86"):
        assert [one["name"] for one in slipway("status", name, "--json").object["rollouts"]] == ["faces.x86"]

    unknown = slipway("status", "face.x86")
    assert unknown.code == 2
    assert "face.x86 has no rollout, did you mean 'faces.x86'?; there are: digits.x86, faces.x86" in unknown.stderr


@pytest.mark.usefixtures("registry")
def test_what_is_promoted_has_no_verdict_while_it_bakes(slipway: Slipway, store: RolloutStore) -> None:
    """Who steers by it would take PASS for the end, and it can still be rolled back."""
    told = []
    for share in (100.0, 0.0):
        store.save(rollout(phase=Phase.PROMOTED, share_percent=share))
        (one,) = slipway("status", NAME, "--json").object["rollouts"]
        told.append((one["phase"], one["verdict"]))
    assert told == [("Promoted", None), ("Promoted", "PASS")]


@pytest.mark.usefixtures("registry")
def test_status_without_rollouts_tells_so(slipway: Slipway) -> None:
    assert slipway("status", "--json").object == {"rollouts": []}
    empty = slipway("status")
    assert (empty.code, empty.stderr) == (0, "no rollout yet; `slipway canary` starts one\n")
    assert "`slipway canary` starts one" in slipway("status", "digits").stderr


def test_rollback_ends_a_rollout_whose_controller_is_not_at_work(
    slipway: Slipway, two: FakeRegistry, store: RolloutStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    store.save(rollout())

    told = slipway("rollback", "digits", "--target", "x86", "--json").object

    assert (told["champion"], told["withdrawn"], told["traffic_moved"]) == ("1", "2", False)
    assert two.aliases(NAME) == {"champion": "1"}
    assert two.version(NAME, "2").tags["slipway.approver"] == "ada"
    ended = store.latest(NAME)
    assert ended is not None
    assert (ended.phase, ended.share_percent) == (Phase.ROLLED_BACK, 0)
    assert ended.reasons == ("rolled back by ada: slipway rollback",)


def test_rollback_withdraws_nothing_else_where_the_controller_was_quicker(
    slipway: Slipway, two: FakeRegistry, store: RolloutStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has ended the rollout by the time the registry answers: the champion must not go back to the one before."""
    third = register_engine(two, tmp_path, NAME, b"three").version
    two.promote(NAME, third, None, None)
    store.save(rollout(champion=Contender(version=third, digest="3" * 64)))
    whole = two.aliases

    def ended_meanwhile(name: str) -> dict[str, str]:
        if store.events("r1"):
            two.withdraw(NAME, "2", "the canary", "rolled back: slipway rollback")
            store.save(rollout(champion=Contender(version=third, digest="3" * 64), phase=Phase.ROLLED_BACK))
        return whole(name)

    monkeypatch.setattr(two, "aliases", ended_meanwhile)

    ended = slipway("rollback", "digits", "--target", "x86")

    assert ended.stdout == f"digits.x86 version {third} serves all; version 2 is withdrawn\n"
    assert whole(NAME) == {"champion": third, "previous": "1"}


def test_rollback_leaves_the_saved_state_to_a_controller_that_is_at_work(
    slipway: Slipway, two: FakeRegistry, store: RolloutStore
) -> None:
    store.save(rollout())
    with store.lease(NAME, this_process(), 60):
        ended = slipway("rollback", "digits", "--target", "x86")

    assert ended.stdout == "digits.x86 version 1 serves all; version 2 is withdrawn\n"
    assert two.aliases(NAME) == {"champion": "1"}
    assert [state.phase for state in store.history("r1")] == [Phase.PROGRESSING]
    assert [(event.kind, event.text) for event in store.events("r1")] == [("withdrawn", "slipway rollback")]


def test_a_rollout_goes_on_once_both_persons_have_approved(
    slipway: Slipway, two: FakeRegistry, store: RolloutStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote_without_prefect(monkeypatch)
    two.tag(NAME, "2", "slipway.approvals_needed", "2")
    store.save(rollout(phase=Phase.WAITING))

    for person, code, told in (("ada", 4, []), ("ada", 4, []), ("grace", 0, ["grace: looks fine"])):
        two.authenticated = person
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", person)
        assert slipway("approve", NAME, "2", "--reason", "looks fine").code == code
        assert [event.text for event in store.events("r1")] == told
    assert two.aliases(NAME) == {"champion": "1", "challenger": "2"}
    tags = two.version(NAME, "2").tags
    assert (tags["slipway.decision"], tags["slipway.approver"]) == ("approved", "ada, grace")


def test_approving_in_the_middle_of_a_rollout_is_a_consent(
    slipway: Slipway, two: FakeRegistry, store: RolloutStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    promote_without_prefect(monkeypatch)
    store.save(rollout(phase=Phase.WAITING))

    for _ in range(2):
        ended = slipway("approve", NAME, "2", "--reason", "looks fine")
        assert ended.stdout.startswith("PASS: digits.x86 version 2 is approved; its rollout promotes it")

    assert two.aliases(NAME) == {"champion": "1", "challenger": "2"}
    (event,) = store.events("r1")
    assert (event.kind, event.text) == ("approved", "ada: looks fine")

    store.save(rollout(phase=Phase.INCONCLUSIVE))
    assert slipway("approve", NAME, "2", "--reason", "all the same").code == 0
    assert two.champion(NAME) == "2"
