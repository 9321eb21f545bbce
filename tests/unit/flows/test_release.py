"""What of a deployed release is decided without Prefect's engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from prefect.client.schemas.objects import StateType
from prefect.logging import disable_run_logger

import flows.prefect_ui
import flows.release
from flows.prefect_ui import key_of, show_release, unharmed
from flows.release import _alone, described, ended
from slipway.errors import BadInputError, InfrastructureError
from slipway.records import Decision, Recorded, ReleaseResult, Verdict
from tests.fakes.evidence import evidence
from tests.fakes.evidence import release as release_of

PARAMS = "model: models:/tiny/1\ndata: {test: t}\ntargets: {x86: {engines: [torch]}}\n"


def result(verdict: Verdict, reason: str = "as it is", promotion: Decision | None = None) -> ReleaseResult:
    plain = release_of(evidence("1" * 64), evidence(None, timing=None))
    (one,) = plain.targets
    target = one.model_copy(update={"decision": Decision(verdict=verdict, reasons=(reason,)), "chosen": "1" * 64})
    return ReleaseResult(
        release=plain.model_copy(update={"targets": (target,)}),
        recorded=Recorded(run_id="r1", versions={}),
        promotions={} if promotion is None else {"x86": promotion},
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "params").mkdir()
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "params" / "other.yaml").write_text(PARAMS.replace("tiny/1", "other@staging"))
    return tmp_path


@pytest.mark.parametrize("verdict", [Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.SKIPPED])
def test_a_finding_completes_the_run_under_its_name(verdict: Verdict) -> None:
    state = ended(result(verdict))

    assert (state.type, state.name, state.message) == (StateType.COMPLETED, verdict.value, f"x86 {verdict}: as it is")


def test_what_broke_down_fails_the_run() -> None:
    state = ended(result(Verdict.ERROR, "the worker died"))

    assert (state.type, state.name, state.message) == (StateType.FAILED, "Failed", "x86 ERROR: the worker died")


def test_the_last_word_is_the_promotions_and_long_reasons_are_cut() -> None:
    refused = Decision(verdict=Verdict.FAIL, reasons=("rejected before",))

    state = ended(result(Verdict.PASS, "best", refused))
    assert (state.name, state.message) == ("FAIL", "x86 FAIL: best; rejected before")
    assert len(str(ended(result(Verdict.PASS, "long" * 5000)).message)) < 5000


def test_the_file_names_the_model_unless_one_is_asked_for(root: Path) -> None:
    assert described(root, Path("params.yaml"), None).model == "models:/tiny/1"
    assert described(root, Path("params/other.yaml"), "models:/other/7").model == "models:/other/7"


@pytest.mark.parametrize(
    ("file", "model", "why"),
    [
        ("params.yaml", "models:/other/1", "params.yaml describes releases of tiny, and other was asked for"),
        ("../elsewhere.yaml", None, "is no file of the project"),
        ("/etc/passwd", None, "is no file of the project"),
        ("data/laxer.yaml", None, "is no file of the project"),
        ("params/none.yaml", None, "none.yaml"),
        ("params.yaml", "tiny", "is malformed"),
    ],
)
def test_what_no_file_of_the_project_describes_is_refused(root: Path, file: str, model: str | None, why: str) -> None:
    with pytest.raises(BadInputError, match=why):
        described(root, Path(file), model)


def test_another_release_in_this_project_is_waited_for_by_a_worker_and_not_by_a_person(tmp_path: Path) -> None:
    other = FileLock(tmp_path / "release-tiny.lock")
    with (
        other,
        pytest.raises(BadInputError, match="another release of tiny is running in this project; wait for it"),
        _alone(FileLock(other.lock_file, timeout=0), "tiny", waits=False),
    ):
        pytest.fail("it was let in")

    class Patient(FileLock):
        waited: float | None = None

        def acquire(self, timeout: float | None = None, **named: Any) -> Any:
            if timeout:
                self.waited = timeout
                other.release(force=True)
            return super().acquire(timeout, **named)

    other.acquire()
    patient = Patient(other.lock_file, timeout=0)
    with _alone(patient, "tiny", waits=True):
        assert patient.is_locked
    assert patient.waited == flows.release.WAIT_SECONDS


def test_nothing_that_is_shown_can_fail_a_release(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    shown: list[str] = []

    def broken(*_: Any, **named: Any) -> None:
        shown.append(str(named.get("key", "pages")))
        raise InfrastructureError("the server is away")

    for name in ("create_table_artifact", "create_markdown_artifact", "pages", "link"):
        monkeypatch.setattr(flows.prefect_ui, name, broken)
    shop: Any = type("Shop", (), {"registry": None, "look": "mlflow ui"})

    with disable_run_logger():
        show_release(result(Verdict.PASS), shop)

    assert shown == ["pages", "pages", "candidates-digits", "release-digits"]


def test_what_is_shown_names_every_candidate_and_links_to_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: dict[str, Any] = {}
    shop: Any = type("Shop", (), {"registry": None})
    monkeypatch.setattr(flows.prefect_ui, "link", lambda *_: None)
    monkeypatch.setattr(
        flows.prefect_ui, "pages", lambda *_: {"its candidates compared": "http://mlflow/#/compare-runs"}
    )
    for name in ("create_table_artifact", "create_markdown_artifact"):
        monkeypatch.setattr(flows.prefect_ui, name, lambda data, key, description: shown.update({key: data}))

    show_release(result(Verdict.PASS, promotion=Decision(verdict=Verdict.PASS, reasons=("champion now",))), shop)

    table = shown["candidates-digits"]
    assert [(row["target"], row["engine"], row["verdict"]) for row in table] == [("x86", "onnxruntime", "PASS")] * 2
    assert set(table[0]) >= {"variant", "accuracy", "drop ≤", "p50 ms", "p99 ms", "speed-up", "reasons", "chosen"}
    assert "- [its candidates compared](http://mlflow/#/compare-runs)" in shown["release-digits"]
    assert "- x86 PASS: as it is; champion now" in shown["release-digits"]


def test_keys_of_artifacts_are_of_the_letters_that_prefect_takes() -> None:
    assert key_of("release", "My Model_v2.x86!") == "release-my-model-v2-x86"
    assert unharmed(lambda: 3) == 3
