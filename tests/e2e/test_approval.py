from __future__ import annotations

from pathlib import Path

import pytest

from slipway.stores.mlflow_registry import MlflowRegistry
from tests.e2e.conftest import Slipway
from tests.e2e.project import ENGINE, MODEL_URI, write_params


@pytest.fixture
def waiting(project: Path, registry: MlflowRegistry) -> MlflowRegistry:
    """A project whose version 1 nobody decided on yet, and which asks for approval."""
    client = registry._connection.client
    client.delete_registered_model_alias(ENGINE, "champion")
    client.delete_model_version_tag(ENGINE, "1", "slipway.decision")
    write_params(project, approval={"required": True})
    return registry


def test_a_release_waits_for_a_person_and_the_person_promotes(slipway: Slipway, waiting: MlflowRegistry) -> None:
    ended = slipway("release", MODEL_URI)

    assert ended.code == 0
    assert ended.stdout.endswith(f"waits for approval: slipway approve {ENGINE} 1 --reason TEXT\n")
    assert waiting.aliases(ENGINE) == {"challenger": "1"}

    ended = slipway("approve", ENGINE, "1", "--reason", "looks fine", "--json")

    assert (ended.code, ended.object["verdict"]) == (0, "PASS")
    assert waiting.aliases(ENGINE) == {"champion": "1"}
    tags = waiting.version(ENGINE, "1").tags
    assert (tags["slipway.decision"], tags["slipway.reason"]) == ("promoted", "looks fine")


def test_what_a_person_rejected_no_release_brings_back(slipway: Slipway, waiting: MlflowRegistry) -> None:
    assert slipway("reject", ENGINE, "1", "--reason", "not on a Friday").code == 0

    ended = slipway("release", MODEL_URI, "--json")

    assert ended.code == 3
    told = ended.object["targets"]["x86"]
    assert told["verdict"] == "FAIL"
    assert told["reasons"][-1] == "earlier decision: this file was rejected, and only `slipway approve` overrides that"
    assert waiting.aliases(ENGINE) == {}

    assert slipway("approve", ENGINE, "1", "--reason", "it is Monday").code == 0
    assert slipway("release", MODEL_URI).code == 0
    assert waiting.aliases(ENGINE) == {"champion": "1"}
