from __future__ import annotations

import getpass
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.text import Text

from slipway.cli import console, engines
from slipway.records import CandidateSpec, Decision, Evidence, Verdict
from slipway.stores.mlflow_connection import Connection
from slipway.stores.registry import RegisteredEngine
from slipway.stores.tracking import track
from tests.fakes.evidence import evidence, release
from tests.fakes.registry import FakeRegistry
from tests.unit.cli.conftest import Slipway
from tests.unit.cli.promoting import promote_without_prefect
from tests.unit.steps.material import images, write_data
from tests.unit.steps.registered import register_engine

FAILED = Decision(verdict=Verdict.FAIL, reasons=("build: pip install 'slipway[openvino]'",))


@pytest.fixture
def engine(registry: FakeRegistry, tmp_path: Path) -> RegisteredEngine:
    """The champion, ``digits.x86`` version 1."""
    registered = register_engine(registry, tmp_path, "digits.x86")
    registry.promote("digits.x86", "1", None, None)
    return registered


@pytest.fixture
def second(registry: FakeRegistry, engine: RegisteredEngine, tmp_path: Path) -> RegisteredEngine:
    """A newer version, which nobody decided on yet."""
    plain = engine.evidence.spec.model_copy(update={"variant": "bf16"})
    return register_engine(registry, tmp_path, "digits.x86", b"second", spec=plain)


@pytest.fixture
def _flow(registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flow ``promote`` without Prefect's engine, asked by ada."""
    promote_without_prefect(monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")


def test_candidates_as_a_table(slipway: Slipway, engine: RegisteredEngine, second: RegisteredEngine) -> None:
    ended = slipway("candidates", "digits")

    assert ended.code == 0
    lines = [line for line in ended.stdout.splitlines() if "onnxruntime" in line]
    assert len(lines) == 2
    champion = next(line for line in lines if engine.digest[:12] in line)
    assert "►" in champion
    assert "fp32" in champion
    assert "►" not in next(line for line in lines if second.digest[:12] in line)


CUT = Decision(verdict=Verdict.INCONCLUSIVE, reasons=("why",))


@pytest.mark.parametrize(
    ("width", "shown", "dropped"),
    [
        (200, ["speed-up", "[1.80, 2.20]", "size MB", "target", "drop ≤"], []),
        (100, ["speed-up", "accuracy", "p50 ms", "p99 ms", "drop ≤"], ["[1.80", "size MB"]),
        (80, ["speed-up", "p99 ms"], ["[1.80", "size MB", "target", "drop ≤"]),
    ],
)
def test_candidates_in_a_narrow_terminal_keep_what_names_them_whole(
    width: int,
    shown: list[str],
    dropped: list[str],
    slipway: Slipway,
    registry: FakeRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    long = CandidateSpec(target="x86", variant="int8-dynamic", engine="onnxruntime")
    registry.releases["r"] = release(evidence("0123abcd" * 8, spec=long, decision=CUT))
    monkeypatch.setattr(console, "out", Console(width=width, force_terminal=True))

    lines = slipway("candidates", "digits").stdout.splitlines()

    (line,) = [line for line in lines if "0123abcd" in line]
    assert all(word in line for word in ("int8-dynamic", "onnxruntime", "INCONCLUSIVE"))
    assert max(len(Text.from_ansi(line).plain.rstrip()) for line in lines) <= width
    assert all(any(word in line for line in lines) for word in shown)
    assert not any(word in line for line in lines for word in dropped)


@pytest.fixture
def shared(registry: FakeRegistry, engine: RegisteredEngine) -> Evidence:
    """The champion's file measured on another target too, and later, where it serves nobody."""
    spec = engine.evidence.spec.model_copy(update={"target": "arm"})
    found = engine.evidence.model_copy(update={"spec": spec})
    registry.releases["later"] = release(found)
    return found


@pytest.mark.usefixtures("shared")
def test_a_file_that_targets_share_is_the_champion_of_only_one(slipway: Slipway, project: Path) -> None:
    printed = slipway("candidates", "digits", "--json", "--plot", "pareto.html").object
    assert {one["target"]: one["registered"] for one in printed["candidates"]} == {
        "arm": None,
        "x86": "models:/digits.x86/1",
    }
    lines = [line for line in slipway("candidates", "digits").stdout.splitlines() if "onnxruntime" in line]
    assert {("x86" in line, "►" in line) for line in lines} == {(True, True), (False, False)}


def test_explain_prefers_the_target_where_a_shared_file_serves(
    slipway: Slipway, engine: RegisteredEngine, shared: Evidence
) -> None:
    ended = slipway("explain", engine.digest)
    assert ended.stdout.startswith("fp32/onnxruntime for x86: PASS\n")
    assert ended.stderr == "this is the evidence on target x86; the same file has some on arm: give --target\n"

    there = slipway("explain", engine.digest, "--target", "arm", "--json")
    assert (there.object, there.stderr) == (shared.model_dump(mode="json"), "")
    assert slipway("explain", engine.digest, "--target", "gpu").code == 2


def test_candidates_as_json(slipway: Slipway, engine: RegisteredEngine, second: RegisteredEngine) -> None:
    printed = slipway("candidates", "digits", "--json").object

    assert printed["model"] == "digits"
    assert {one["digest"]: (one["registered"], one["target"]) for one in printed["candidates"]} == {
        engine.digest: ("models:/digits.x86/1", "x86"),
        second.digest: (None, "x86"),
    }


def test_candidates_of_what_was_never_measured_are_bad_input(slipway: Slipway, engine: RegisteredEngine) -> None:
    ended = slipway("candidates", "digits", "--target", "arm")

    assert ended.code == 2
    assert "no candidate of digits on target arm was ever measured here" in ended.stderr


def test_of_each_candidate_the_newest_evidence_and_the_champions(
    slipway: Slipway, registry: FakeRegistry, engine: RegisteredEngine, tmp_path: Path
) -> None:
    register_engine(registry, tmp_path, "digits.x86", b"newer")
    newest = register_engine(registry, tmp_path, "digits.x86", b"newest")

    listed = slipway("candidates", "digits", "--json").object["candidates"]
    assert [one["digest"] for one in listed] == [newest.digest, engine.digest]
    assert listed[1]["registered"] == "models:/digits.x86/1"


@pytest.mark.usefixtures("engine")
def test_candidates_as_a_plot(slipway: Slipway, project: Path) -> None:
    ended = slipway("candidates", "digits", "--plot", "pareto.png", "--json")

    assert ended.object["candidates"], "stdout is the object's alone"
    assert ended.stderr == "wrote pareto.png\n"
    assert (project / "pareto.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("name", "plot", "told"),
    [
        ("digits", "pareto.svg", "ends in .html or .png"),
        ("digits", "nowhere/pareto.png", "cannot plot to nowhere/pareto.png: No such file or directory"),
        ("unheard-of", "pareto.png", "no candidate of unheard-of was ever measured"),
    ],
)
def test_a_plot_that_cannot_be_is_bad_input(name: str, plot: str, told: str, slipway: Slipway) -> None:
    ended = slipway("candidates", name, "--plot", plot)

    assert ended.code == 2
    assert told in ended.stderr


def test_explain_tells_gates_and_figures(slipway: Slipway, engine: RegisteredEngine) -> None:
    ended = slipway("explain", engine.digest[:8])

    assert ended.code == 0
    lines = ended.stdout.splitlines()
    assert lines[0] == "fp32/onnxruntime for x86: PASS"
    assert {"What it is", "Gates", "Accuracy", "Speed"} < set(lines)
    assert f"  engine file sha256 {engine.digest}" in lines
    assert "  accuracy: PASS: drop 0.001 <= 0.010" in lines


def test_explain_as_json_is_the_evidence(slipway: Slipway, engine: RegisteredEngine) -> None:
    assert slipway("explain", engine.digest, "--json").object == engine.evidence.model_dump(mode="json")


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("digest", ["0000", "abc", "NOT-HEX"])
def test_a_digest_that_names_nothing_is_bad_input(digest: str, slipway: Slipway) -> None:
    ended = slipway("explain", digest, "--json")

    assert ended.code == 2
    assert digest in ended.object["error"]


def test_what_is_told_keeps_its_brackets(slipway: Slipway, registry: FakeRegistry) -> None:
    broken = evidence("d" * 64, gates={"build": FAILED}, decision=FAILED)
    registry.releases["r"] = release(broken)

    assert "slipway[openvino]" in slipway("explain", "dddd").stdout


@pytest.mark.usefixtures("_flow", "second")
def test_approve_promotes(slipway: Slipway, registry: FakeRegistry) -> None:
    ended = slipway("approve", "digits.x86", "2", "--reason", "looks [/fine]")

    assert (ended.code, ended.stdout) == (0, "PASS: digits.x86 version 2 is the champion now\n")
    assert registry.champion("digits.x86") == "2"
    tags = registry.version("digits.x86", "2").tags
    assert (tags["slipway.approver"], tags["slipway.reason"]) == ("ada", "looks [/fine]")


@pytest.mark.usefixtures("_flow", "second")
def test_reject_and_its_json(slipway: Slipway, registry: FakeRegistry) -> None:
    ended = slipway("reject", "digits.x86", "2", "--reason", "wrong [/colours]", "--json")

    assert ended.code == 0
    assert ended.object == {
        "name": "digits.x86",
        "version": "2",
        "verdict": "PASS",
        "reasons": ["digits.x86 version 2 is rejected: wrong [/colours]"],
    }
    assert registry.version("digits.x86", "2").tags["slipway.decision"] == "rejected"


@pytest.mark.usefixtures("_flow", "second")
def test_a_reason_with_brackets_is_printed_as_it_is(slipway: Slipway) -> None:
    ended = slipway("reject", "digits.x86", "2", "--reason", "wrong [/colours]")

    assert (ended.code, ended.stdout) == (0, "PASS: digits.x86 version 2 is rejected: wrong [/colours]\n")


@pytest.mark.usefixtures("_flow", "engine")
def test_rejecting_the_champion_costs_three(slipway: Slipway, registry: FakeRegistry) -> None:
    ended = slipway("reject", "digits.x86", "1", "--reason", "no", "--json")

    assert (ended.code, ended.object["exit_code"]) == (3, 3)
    assert "slipway rollback" in ended.object["error"]


@pytest.mark.usefixtures("_flow", "second")
@pytest.mark.parametrize("word", ["approve", "reject"])
def test_a_decision_without_a_reason_is_bad_input(word: str, slipway: Slipway, registry: FakeRegistry) -> None:
    ended = slipway(word, "digits.x86", "2", "--reason", "  ")

    assert ended.code == 2
    assert "without a reason" in ended.stderr
    assert "slipway.decision" not in registry.version("digits.x86", "2").tags


@pytest.mark.usefixtures("_flow", "engine")
@pytest.mark.parametrize(("name", "version"), [("digits.x86", "9"), ("unheard-of.x86", "1")])
def test_deciding_on_what_is_not_there_is_bad_input(name: str, version: str, slipway: Slipway) -> None:
    assert slipway("approve", name, version, "--reason", "yes").code == 2


@pytest.mark.usefixtures("_flow", "engine")
def test_failing_evidence_is_not_approved(slipway: Slipway, registry: FakeRegistry, tmp_path: Path) -> None:
    version = register_engine(registry, tmp_path, "digits.x86", b"bad", gates={"accuracy": FAILED}).version

    ended = slipway("approve", "digits.x86", version, "--reason", "yes", "--json")

    assert (ended.code, ended.object["verdict"]) == (3, "FAIL")
    assert registry.champion("digits.x86") == "1"


PARAMS = "model: models:/{model}/1\ndata: {{test: data/test}}\ntargets: {{x86: {{engines: [torch]}}}}\n"


@pytest.mark.usefixtures("_flow", "second")
def test_data_that_changed_since_refuses_the_approval(slipway: Slipway, registry: FakeRegistry, project: Path) -> None:
    """Only if the parameters at hand are about this model; of other data nothing is known here."""
    from dvc.repo import Repo

    Repo.init(str(project), no_scm=True).close()
    write_data(project / "data" / "test", images(2), np.zeros(2, np.int64))
    track(project / "data" / "test")
    (project / "params.yaml").write_text(PARAMS.format(model="digits"))
    (project / "other.yaml").write_text(PARAMS.format(model="faces"))

    refused = slipway("approve", "digits.x86", "2", "--reason", "yes", "--json")
    assert refused.code == 3
    assert refused.object["reasons"][0].startswith("data: the data is now md5 ")
    assert registry.champion("digits.x86") == "1"

    assert slipway("approve", "digits.x86", "2", "--reason", "yes", "--params", "other.yaml").code == 0


@pytest.mark.usefixtures("_flow", "second")
def test_where_two_approve_the_first_ends_inconclusive(
    slipway: Slipway, registry: FakeRegistry, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    approval = "approval: {required: true, persons: 2}\n"
    elsewhere = PARAMS.format(model="digits").replace("[torch]", "[torch], work_pool: far")
    (project / "params.yaml").write_text(elsewhere + approval)
    approve = ("approve", "digits.x86", "2", "--reason", "yes", "--json")

    refused = slipway(*approve)
    assert refused.code == 3
    assert "nobody has checked that ada is one" in refused.object["reasons"][0]

    for person, code in (("ada", 4), ("ada", 4), ("grace", 0)):
        registry.authenticated = person
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", person)
        ended = slipway(*approve)
        assert ended.code == code
    assert ended.object["reasons"] == ["digits.x86 version 2 is the champion now"]
    assert registry.version("digits.x86", "2").tags["slipway.approver"] == "ada, grace"


@pytest.mark.usefixtures("second")
def test_rollback_takes_the_previous_champion_back(
    slipway: Slipway, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.promote("digits.x86", "2", "ada", "looks fine")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "grace")

    ended = slipway("rollback", "digits", "--target", "x86")

    assert (ended.code, ended.stdout) == (
        0,
        "digits.x86 version 1 is the champion again (fp32/onnxruntime)\n",
    )
    assert registry.champion("digits.x86") == "1"
    tags = registry.version("digits.x86", "2").tags
    assert (tags["slipway.decision"], tags["slipway.approver"]) == ("rolled back", "grace")
    assert tags["slipway.reason"] == "slipway rollback"


@pytest.mark.usefixtures("second")
def test_who_has_no_name_can_roll_back(
    slipway: Slipway, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def getuser() -> str:
        raise OSError("No username set")

    registry.promote("digits.x86", "2", None, None)
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    monkeypatch.setattr(getpass, "getuser", getuser)

    assert slipway("rollback", "digits", "--target", "x86").code == 0
    assert registry.version("digits.x86", "2").tags["slipway.approver"] == "unknown"


def test_rollback_as_json(
    slipway: Slipway, registry: FakeRegistry, engine: RegisteredEngine, second: RegisteredEngine
) -> None:
    registry.promote("digits.x86", second.version, None, None)

    assert slipway("rollback", "digits", "--target", "x86", "--json").object == {
        "name": "digits.x86",
        "champion": "1",
        "digest": engine.digest,
        "withdrawn": None,
        "traffic_moved": False,
    }


@pytest.mark.usefixtures("engine")
def test_rollback_without_a_previous_champion_is_bad_input(slipway: Slipway) -> None:
    ended = slipway("rollback", "digits", "--target", "x86")

    assert ended.code == 2
    assert "no previous version" in ended.stderr


def test_the_person_is_mlflows_user_and_otherwise_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    assert engines._person() == "ada"

    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    monkeypatch.setattr(getpass, "getuser", lambda: "grace")
    assert engines._person() == "grace"


def test_the_name_that_a_server_has_authenticated_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    monkeypatch.setattr(Connection, "user", lambda _: "ann")
    assert engines._person() == "ann"

    monkeypatch.setattr(Connection, "user", lambda _: None)
    assert engines._person() == "ada"


@pytest.mark.usefixtures("second")
@pytest.mark.parametrize("error", [KeyError("uid not found"), OSError("No username set")])
def test_a_person_without_a_name_decides_nothing(
    error: Exception, slipway: Slipway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def getuser() -> str:
        raise error

    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    monkeypatch.setattr(getpass, "getuser", getuser)
    monkeypatch.setattr(engines, "load_flow", lambda _: lambda *_: pytest.fail("it was decided"))

    ended = slipway("approve", "digits.x86", "2", "--reason", "yes")
    assert ended.code == 2
    assert "set MLFLOW_TRACKING_USERNAME" in ended.stderr


@pytest.mark.parametrize(
    ("name", "version"), [("digits.x86", "latest"), ("models:/digits.x86/1", "1"), ("digits.x86@champion", "1")]
)
@pytest.mark.parametrize("word", ["approve", "reject"])
def test_a_name_or_version_of_another_form_is_told_as_it_was_given(
    word: str, name: str, version: str, slipway: Slipway, registry: FakeRegistry
) -> None:
    ended = slipway(word, name, version, "--reason", "why", "--json")

    assert ended.code == 2
    assert f"cannot {word} {name!r} version {version!r}: give the registered engine's name" in ended.object["error"]
