"""`prefect.yaml` and the automations agree with the flows that are installed."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import yaml
from prefect import Flow
from prefect.events.actions import RunDeployment
from prefect.events.schemas.automations import EventTrigger

from infra.provision.automations import RELEASE_PARAMETERS, automations
from infra.provision.declared import Deployment, load, read_declared
from infra.provision.deployments import POOLED
from infra.provision.pools import COMMON
from slipway.errors import BadInputError
from slipway.records import ReleaseRequest, Verdict

REPOSITORY = Path(__file__).parents[3]
DECLARED = read_declared(REPOSITORY).deployments


def flow_of(one: Deployment) -> Flow[..., Any]:
    return load(one.entrypoint, one.parameters)


@pytest.mark.parametrize("one", DECLARED, ids=lambda one: one.name)
def test_a_deployment_names_a_flow_that_takes_its_parameters(one: Deployment) -> None:
    flow = flow_of(one)
    assert flow.name in {one.name, f"{one.name}-version"}
    assert one.work_pool.name == COMMON
    for schedule in one.schedules:
        load(one.entrypoint, schedule.parameters)
        given = one.parameters.keys() | schedule.parameters.keys()
        required = {
            name
            for name, parameter in inspect.signature(flow.fn).parameters.items()
            if parameter.default is inspect.Parameter.empty
        }
        assert required <= given, "a schedule asks nobody"


def test_the_deployments_and_their_hours() -> None:
    hours = {one.name: {schedule.slug: schedule.active for schedule in one.schedules} for one in DECLARED}
    assert hours == {
        "release": {"weekly": False},
        "rollout": {},
        "promote": {},
        "audit": {"nightly": True},
        "reconcile": {"hourly": True},
    }


def test_prefects_own_deploy_reads_the_file_too() -> None:
    from prefect.cli.deploy._models import PrefectYamlModel

    found = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text(encoding="utf-8"))
    model = PrefectYamlModel.model_validate(found)
    assert [one.name for one in model.deployments] == [one.name for one in DECLARED]
    assert found["pull"] == [], "otherwise it would have workers look for code in this directory"


@pytest.mark.parametrize("entrypoint", POOLED.values())
def test_what_runs_on_a_targets_own_hardware_is_a_flow(entrypoint: str) -> None:
    assert load(entrypoint, {}).name in POOLED


def test_an_automation_gives_its_flow_what_it_takes() -> None:
    names: dict[UUID, str] = {}

    def find(name: str) -> UUID:
        names[known := uuid4()] = name
        return known

    flows = {f"{flow_of(one).name}/{one.name}": flow_of(one) for one in DECLARED}
    ran = set()
    for make in automations(find, ["release-version"]).values():
        for action in make().actions:
            if isinstance(action, RunDeployment):
                assert action.deployment_id is not None
                name = names[action.deployment_id]
                ran.add(name)
                taken = inspect.signature(flows[name].fn).parameters
                given = set(action.parameters or {})
                assert given <= set(taken)
                assert {one for one in taken if taken[one].default is inspect.Parameter.empty} <= given
    assert ran == {"release-version/release", "rollout/rollout", "reconcile/reconcile"}


def test_a_run_is_not_dead_that_ended_under_the_name_of_a_verdict() -> None:
    """Prefect names the event of an end after the state's name, and flows name it after the verdict."""
    trigger = automations(lambda _: uuid4(), ["audit"])["slipway: a run whose worker died is crashed"]().trigger
    assert isinstance(trigger, EventTrigger)
    ends = {f"prefect.flow-run.{name}" for name in ("Completed", "Failed", *Verdict)}
    assert ends < set(trigger.expect)


def test_a_request_tells_all_that_a_release_is_given() -> None:
    assert set(RELEASE_PARAMETERS) == set(ReleaseRequest.model_fields)


def test_only_the_rollout_waits_for_somebody_to_enable_it() -> None:
    enabled = {name: make().enabled for name, make in automations(lambda _: uuid4(), ["a"]).items()}
    assert [name for name, on in enabled.items() if not on] == ["slipway: roll out a new challenger"]


@pytest.mark.parametrize(
    ("entrypoint", "parameters", "told"),
    [
        ("flows.nowhere.flow", {}, "flows.nowhere.flow is no flow of this installation: No module named"),
        ("flows.reconcile.nothing", {}, "is no flow of this installation: module 'flows.reconcile' has no attribute"),
        ("flow", {}, "is no flow of this installation"),
        ("flows.place.project_of_the_worker", {}, "is a function, not a flow"),
        ("flows.reconcile.reconcile", {"params": "x"}, "takes no params"),
    ],
)
def test_a_wrong_entrypoint_is_told(entrypoint: str, parameters: dict[str, str], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        load(entrypoint, parameters)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "holds no prefect.yaml"),
        (b"\xff\xfe", "is no YAML: 'utf-8' codec can't decode"),
        ("[]", "names no deployments"),
        ("a: [", "is no YAML"),
        ("deployments: [{name: a}]", "deployments.0.entrypoint: Field required"),
        ("deployments: [{name: a, entrypoint: b, work_pool: {name: c}, concurrency_limit: 1}]", "concurrency_limit"),
        ("{deployments: [], pull: [{prefect.deployments.steps.git_clone: {}}]}", "pull"),
    ],
)
def test_a_file_that_is_wrong_is_told(tmp_path: Path, text: str | bytes | None, told: str) -> None:
    if text is not None:
        (tmp_path / "prefect.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadInputError, match=told):
        read_declared(tmp_path)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "prefect.yaml").mkdir()

    with pytest.raises(BadInputError, match=r"cannot read .*prefect\.yaml: Is a directory"):
        read_declared(tmp_path)
