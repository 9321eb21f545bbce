"""The whole demo: an example trained and released, and its runner-up beside its champion under real clients."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import yaml

from slipway.wiring import workshop
from tests.integration.conftest import INCONCLUSIVE, TRIES, Command, Project

pytestmark = pytest.mark.integration

ENGINE = "digits-resnet.x86"
PARAMS = {
    "model": "models:/digits-resnet/1",
    "data": {"test": "data/digits/test"},
    "latency": {"samples": 64},
    "variants": ["fp32", "int8-dynamic"],
    "targets": {"x86": {"engines": ["torchscript", "onnxruntime"]}},
}
DEMO = ("demo", "digits", "--canary", "--json")
DEMO_SECONDS = 900.0


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A directory in which the example was released."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "params.yaml").write_text(yaml.safe_dump(PARAMS), encoding="utf-8")
    made = Project(root)
    for _ in range(TRIES):
        with made.start("demo", "digits") as command:
            code = command.ended(DEMO_SECONDS)
        if code != INCONCLUSIVE:  # on a busy host latency may not settle at once
            break
    assert code == 0, command.stderr
    return made


def ended(command: Command) -> None:
    """See it end well, with nothing left."""
    assert command.ended(DEMO_SECONDS) == 0, command.stderr
    assert command.left() == set()
    assert list(command.object)[-1] == "canary"


def test_the_demo_ends_with_a_canary_that_is_decided_once_whatever_interrupts_it(project: Project) -> None:
    registry = workshop(project.root).registry
    champion = registry.champion(ENGINE)

    with project.start(*DEMO) as interrupted:
        interrupted.wait_for(lambda: f"a canary of {ENGINE}" in interrupted.stderr)
        interrupted.send(signal.SIGINT, to_group=True)
        assert interrupted.ended() == 130
        assert interrupted.left() == set()
    assert registry.aliases(ENGINE) == {"champion": champion}

    with project.start(*DEMO) as killed:
        killed.wait_for(lambda: f"{ENGINE} Progressing step 1 of 2" in killed.stderr)
        killed.send(signal.SIGKILL)
        killed.ended()
        assert killed.left() == set()

    with project.start(*DEMO) as going_on:
        ended(going_on)
    canary = going_on.object["canary"]
    assert canary["phase"] in {"Promoted", "RolledBack", "Inconclusive"}, going_on.stderr
    assert (canary["verdict"] in {"PASS", "FAIL", "INCONCLUSIVE"}, canary["failed"]) == (True, 0), going_on.stderr
    assert canary["requests"] > 100
    assert canary["reasons"]
    assert canary["champion"]["version"] == champion == registry.champion(ENGINE)

    with project.start(*DEMO) as again:
        ended(again)
    assert f"{ENGINE}'s runner-up, " in again.object["canary"]["left_out"]
    assert "Progressing" not in again.stderr
