"""The audit of a real champion against a real Prefect server: on good data, on worse ones, and on another runtime."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import onnxruntime
import pytest
from prefect.context import refresh_global_settings_context

import flows.audit
from flows.audit import audit
from flows.release import release
from slipway.config import load_params
from slipway.errors import InfrastructureError
from slipway.records import Audit, AuditResult, Verdict
from slipway.stores.datasets import write_shards
from slipway.stores.tracking import track
from slipway.wiring import Workshop, host_hardware, workshop
from tests.e2e.project import ENGINE, MODEL_URI, TEST_DATA, make_project, target, write_params
from tests.integration.prefect_server import PrefectServer

pytestmark = [pytest.mark.integration, pytest.mark.slow]

POOL = "board"
WAIT_SECONDS = 300.0
# Another session of a host that others use too may differ by more than any real threshold.
TARGETS = target(max_regression=0.9)
SETTINGS: dict[str, Any] = {"variants": ["int8-dynamic"], "latency": {"samples": 64}, "targets": TARGETS}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A server that flows in this process use as well."""
    with PrefectServer(tmp_path_factory.mktemp("prefect")) as running:
        running.create_pool(POOL)
        with mock.patch.dict(os.environ, running.environment | {"PREFECT_LOGGING_TO_API_ENABLED": "false"}):
            # Prefect's own threads have no other context than this one.
            refresh_global_settings_context()
            yield running
        refresh_global_settings_context()


@pytest.fixture(scope="module")
def project(server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """A project with a champion in int8, which is the current directory."""
    root = tmp_path_factory.mktemp("project")
    make_project(root)
    write_params(root, **SETTINGS)
    with contextlib.chdir(root):
        releases = (release(load_params(root / "params.yaml")) for _ in range(3))
        # On a busy host latency may not settle at once.
        released = next((one for one in releases if one.verdict is not Verdict.INCONCLUSIVE), None)
        assert released is not None, "latency never settled"
        assert released.verdict is Verdict.PASS, released.release.targets[0].decision
        yield workshop(root)


def requests(server: PrefectServer) -> list[dict[str, Any]]:
    """The payloads of all events that asked for a release."""
    found = server.ask("/events/filter", filter={"event": {"name": ["slipway.release.requested"]}})
    return [event["payload"] for event in found["events"]]


def asked(server: PrefectServer, count: int) -> list[dict[str, Any]]:
    """As `requests`, the newest first, once there are ``count``: the server takes a moment to write events down."""
    deadline = time.monotonic() + WAIT_SECONDS
    while len(found := requests(server)) < count:
        assert time.monotonic() < deadline, f"{len(found)} requests, {count} expected"
        time.sleep(0.5)
    return found


def audited(*arguments: str) -> Audit:
    """The one champion's audit."""
    result: AuditResult = audit(*arguments)  # type: ignore[assignment]
    assert len(result.audits) == 1
    return result.audits[0]


def test_a_champion_that_holds_passes_and_its_version_says_so(server: PrefectServer, project: Workshop) -> None:
    looks = (audited() for _ in range(3))  # on a busy host latency may not settle at once
    found = next((one for one in looks if one.decision.verdict is not Verdict.INCONCLUSIVE), None)

    assert found is not None, "latency never settled"
    assert found.decision.verdict is Verdict.PASS, found.decision
    version = project.registry.version(ENGINE, "1")
    assert found.fresh is not None
    assert found.fresh.digest == version.digest, "the very file"
    assert found.fresh.timing != version.evidence.timing, "measured again"
    assert version.tags["slipway.audit"] == "PASS"
    assert version.tags["slipway.audited_at"].startswith(f"{found.at:%Y-%m-%d}")
    assert version.aliases == ("champion",)
    assert requests(server) == []


def worsen(project: Workshop) -> None:
    """A new data revision: mostly examples to which the champion answers otherwise than the reference does."""
    with project.objects.new_dir() as folder:
        session = onnxruntime.InferenceSession(str(project.registry.engine_path(ENGINE, "1", folder)))
        old = np.load(next((project.root / TEST_DATA).glob("*.npz")))
        near = np.random.default_rng(1).normal(size=(40_000, 64)).astype(np.float32)
        scores = session.run(None, {"x": near})[0]
    expected = reference_answers(project, near)
    wrong = scores.argmax(axis=1) != expected
    x, labels = np.concatenate([old["x"], near[wrong][:200]]), np.concatenate([old["target"], expected[wrong][:200]])
    assert wrong.sum() > len(old["x"]) / 2, "the champion differs from the reference too seldom for this test"
    for shard in (project.root / TEST_DATA).glob("*.npz"):
        shard.unlink()
    write_shards(project.root / TEST_DATA, {"x": x}, labels, shard_size=100)
    track(project.root / TEST_DATA)


def reference_answers(project: Workshop, x: np.ndarray) -> np.ndarray:
    import torch

    with project.objects.new_dir() as folder:
        model = project.registry.download(project.registry.resolve(MODEL_URI), folder)
        module = torch.export.load(next(model.rglob("*.pt2"))).module()
    with torch.no_grad():
        answers: np.ndarray = module(torch.from_numpy(x)).argmax(dim=1).numpy()
    return answers


def test_a_champion_that_fails_on_new_data_asks_for_one_release_and_keeps_serving(
    server: PrefectServer, project: Workshop
) -> None:
    worsen(project)

    found = audited("params.yaml")

    assert found.decision.verdict is Verdict.FAIL, found.decision
    assert any(reason.startswith("accuracy: top1 drop >= 0.") for reason in found.decision.reasons)
    assert found.follow_up == "a new release was asked for"
    (request,) = asked(server, 1)
    assert (request["model"], request["params"], request["fresh"]) == (MODEL_URI, "params.yaml", True)
    assert request["reason"].startswith("audit of tiny.x86 version 1: ")
    version = project.registry.version(ENGINE, "1")
    assert (version.aliases, version.tags["slipway.audit"]) == (("champion",), "FAIL")

    again = audited()

    assert again.decision.verdict is Verdict.FAIL
    assert again.finding == found.finding
    assert again.request is None
    assert again.follow_up is not None
    assert again.follow_up.endswith("and none has ended yet")
    assert len(asked(server, 1)) == 1


def test_a_stale_champion_is_not_measured_and_asks_for_a_release(
    server: PrefectServer, project: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, here = len(requests(server)), host_hardware()
    newer = here.model_copy(update={"runtimes": here.runtimes | {"onnxruntime": "99.0"}})
    monkeypatch.setattr(flows.audit, "host_hardware", lambda: newer)

    found = audited()

    assert found.decision.verdict is Verdict.FAIL
    assert found.decision.reasons == (f"stale: onnxruntime {here.runtimes['onnxruntime']}, here 99.0",)
    assert found.fresh is None
    assert "stale: onnxruntime" in asked(server, before + 1)[0]["reason"]


def test_data_that_were_changed_behind_dvc_end_the_run_as_failed_and_stop_no_other_audit(
    server: PrefectServer, project: Workshop
) -> None:
    """The other target has no champion yet, and nothing is asked for."""
    before = len(requests(server))
    write_params(project.root, **SETTINGS | {"targets": TARGETS | {"zen": TARGETS["x86"]}})
    shard = next((project.root / TEST_DATA).glob("*.npz"))
    content = shard.read_bytes()
    shard.write_bytes(content + b"x")
    try:
        state = audit(return_state=True)
    finally:
        shard.write_bytes(content)

    assert state.is_failed()
    assert state.message == "tiny.x86: ERROR; tiny.zen: SKIPPED"
    with pytest.raises(InfrastructureError, match=r"tiny\.x86: audit: data data/test should have md5"):
        state.result()
    assert project.registry.version(ENGINE, "1").tags["slipway.audit"] == "ERROR"
    assert len(requests(server)) == before


def test_a_target_elsewhere_is_audited_by_a_worker_of_its_pool(server: PrefectServer, project: Workshop) -> None:
    """Without one it is skipped, and told what helps."""
    write_params(project.root, **SETTINGS | {"targets": target(max_regression=0.9, work_pool=POOL)})
    alone = audited()
    assert alone.decision.verdict is Verdict.SKIPPED
    assert alone.decision.reasons[0].startswith(f"work pool '{POOL}' has no worker online: on its hardware")

    with server.worker(POOL, project.root) as worker:
        sent = audited()
        assert sent.decision.verdict is Verdict.SKIPPED
        assert f"of deployment audit/{POOL} audits it there" in sent.decision.reasons[0]
        name = sent.decision.reasons[0].split("'")[1]
        worker.wait_for(lambda: state_of(server, name)["type"] in {"COMPLETED", "FAILED", "CRASHED"})

    ended = state_of(server, name)
    assert (ended["name"], ended["message"]) == ("FAIL", "tiny.x86: FAIL"), worker.log


def state_of(server: PrefectServer, name: str) -> dict[str, Any]:
    (run,) = server.ask("/flow_runs/filter", flow_runs={"name": {"any_": [name]}})
    found: dict[str, Any] = run["state"]
    return found
