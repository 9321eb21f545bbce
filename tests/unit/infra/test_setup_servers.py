"""What is changed on a server, and what is left to the people who use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.events.schemas.automations import Automation

from infra.provision import buckets, prefect_side
from infra.provision.automations import automations, meaning
from infra.provision.declared import Deployment, Pool, Schedule
from infra.provision.deployments import differing, owned, same_time
from infra.provision.mlflow_api import MlflowApi
from infra.provision.mlflow_users import ensure_approver, ensure_permission, password_variable
from infra.provision.things import Change
from infra.provision.webhooks import declared, ensure_webhook
from infra.provision.webhooks import owned as owned_of_webhook
from slipway.errors import BadInputError, InfrastructureError, RejectedError

WANTED = Deployment(name="audit", entrypoint="flows.audit.audit", work_pool=Pool(name="slipway"), tags=("slipway",))
SCHEDULE = Schedule(slug="nightly", cron="30 1 * * *")


def deployment(**fields: Any) -> DeploymentResponse:
    known = {"id": uuid4(), "name": "audit", "flow_id": uuid4(), "entrypoint": WANTED.entrypoint, "tags": ["slipway"]}
    return DeploymentResponse.model_validate(known | {"work_pool_name": "slipway"} | fields)


def test_what_the_file_does_not_say_of_a_deployment_is_left_alone() -> None:
    theirs = {"paused": True, "version": "2", "job_variables": {"working_dir": "/there"}, "labels": {"a": "b"}}
    assert differing(owned(WANTED, {}), deployment(**theirs)) == {}


def test_what_the_file_says_of_a_deployment_is_put_right() -> None:
    found = deployment(tags=["other"], pull_steps=[{"git_clone": {}}], work_pool_name="far", parameters={"a": 1})
    assert differing(owned(WANTED, {}), found) == {
        "tags": ["slipway"],
        "pull_steps": [],
        "work_pool_name": "slipway",
        "parameters": {},
    }
    variables = WANTED.model_copy(update={"work_pool": Pool(name="slipway", job_variables={"env": {}})})
    assert differing(owned(variables, {}), deployment()) == {"job_variables": {"env": {}}}


@pytest.mark.parametrize(
    ("schedule", "parameters", "same"),
    [
        (CronSchedule(cron="30 1 * * *", timezone="UTC"), {}, True),
        (CronSchedule(cron="30 1 * * *"), {}, True),
        (CronSchedule(cron="30 1 * * *", timezone="Europe/Berlin"), {}, False),
        (CronSchedule(cron="30 2 * * *", timezone="UTC"), {}, False),
        (CronSchedule(cron="30 1 * * *", timezone="UTC"), {"a": 1}, False),
        (IntervalSchedule(interval=60), {}, False),
    ],
)
def test_a_schedule_is_known_by_its_time_and_parameters(
    schedule: CronSchedule | IntervalSchedule, parameters: dict[str, Any], same: bool
) -> None:
    made = DeploymentScheduleCreate(schedule=schedule, active=False, parameters=parameters)
    assert same_time(SCHEDULE, DeploymentSchedule.model_validate(made.model_dump())) is same


def test_an_automation_means_the_same_whether_or_not_it_is_enabled() -> None:
    identity = uuid4()
    for name, make in automations(lambda _: identity, ["audit"]).items():
        wanted = make().model_copy(update={"name": name})
        found = wanted.model_dump(mode="json") | {"id": str(uuid4()), "enabled": not wanted.enabled}
        assert meaning(Automation.model_validate(found)) == meaning(wanted)
        found["trigger"]["threshold"] = 5
        assert meaning(Automation.model_validate(found)) != meaning(wanted)


class Answers(MlflowApi):
    """A server that answers as it was told, and remembers what it was asked to do."""

    def __init__(self, answers: Mapping[str, tuple[int, Any]]) -> None:
        def answer(request: httpx.Request) -> httpx.Response:
            path = request.url.path.removeprefix("/api/")
            if request.method != "GET":
                self.done.append((request.method, path, request.read().decode()))
            status, content = answers.get(path, (200, {}))
            return httpx.Response(status, **({"text": content} if isinstance(content, str) else {"json": content}))

        super().__init__("http://mlflow", ("admin", "secret"))
        self.done: list[tuple[str, str, str]] = []
        self._client = httpx.Client(base_url="http://mlflow/api", transport=httpx.MockTransport(answer))


ABSENT = (404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "User with username=ann not found"})


@pytest.mark.parametrize(
    ("held", "change"),
    [("NO_PERMISSIONS", Change.CREATED), ("READ", Change.CHANGED), ("EDIT", Change.THERE), ("MANAGE", Change.THERE)],
)
def test_a_permission_is_raised_and_never_lowered(held: str, change: Change) -> None:
    api = Answers({"3.0/mlflow/users/permissions/get": (200, {"permission": held})})
    assert ensure_permission(api, "ann", "registered_model", "tiny.x86", "EDIT") is change
    assert bool(api.done) is (change is not Change.THERE)


def test_what_was_denied_to_somebody_is_not_granted() -> None:
    api = Answers({"3.0/mlflow/users/permissions/get": (200, {"permission": "DENY"})})
    with pytest.raises(
        BadInputError, match=r"MLflow has DENY for ann on registered_model tiny\.x86, and EDIT is asked"
    ):
        ensure_permission(api, "ann", "registered_model", "tiny.x86", "EDIT")
    assert not api.done


def test_a_password_that_was_made_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    api = Answers({"2.0/mlflow/users/get": ABSENT})
    monkeypatch.delenv("SLIPWAY_PASSWORD_ANN", raising=False)
    assert ensure_approver(api, "ann", told.append) is Change.CREATED
    (line,) = told
    made = line.rpartition(": ")[2]
    assert len(made) >= 20
    assert made in api.done[0][2]
    monkeypatch.setenv("SLIPWAY_PASSWORD_ANN", "given/by:somebody")
    assert ensure_approver(api, "ann", told.append) is Change.CREATED
    assert told == [line]
    assert "given/by:somebody" in api.done[1][2]
    assert ensure_approver(Answers({}), "ann", told.append) is Change.THERE


def test_the_variable_of_a_password_is_one_that_a_shell_takes() -> None:
    assert password_variable("ann.b@c-d") == "SLIPWAY_PASSWORD_ANN_B_C_D"


@pytest.mark.parametrize(
    ("status", "content", "error", "told"),
    [
        (401, "", BadInputError, "does not accept admin with this password; correct MLFLOW_ADMIN_USERNAME"),
        (403, "Permission denied", RejectedError, "does not let admin do this .*Permission denied"),
        (500, "oops", InfrastructureError, r"failed \(a\): oops; look at its log"),
        (
            400,
            {"error_code": "INVALID_PARAMETER_VALUE", "message": "bad\n url"},
            BadInputError,
            r"refused \(a\): bad url",
        ),
        (200, "<html>a page</html>", BadInputError, "where MLflow answers JSON .*correct MLFLOW_TRACKING_URI"),
    ],
)
def test_a_refusal_is_told_in_our_words(status: int, content: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        Answers({"a": (status, content)}).post("a", {})


def test_a_password_in_an_address_is_neither_shown_nor_sent_for_nobody() -> None:
    """With it, a server that asks who one is would look like one that asks nobody."""
    api = MlflowApi("http://ann:hidden@127.0.0.1:9/", None)
    with pytest.raises(InfrastructureError, match=r"^MLflow at http://127\.0\.0\.1:9 did not answer") as raised:
        api.guarded()
    assert "hidden" not in str(raised.value)


def test_an_address_that_is_none_is_told() -> None:
    with pytest.raises(BadInputError, match="http://a:b is no address of a server: Invalid port: 'b'; set MLFLOW_"):
        MlflowApi("http://a:b", None)


def test_a_webhook_is_known_by_what_it_does_and_by_the_mark_of_its_secret() -> None:
    wanted = declared("http://receiver/mlflow", "secret")
    found = wanted | {"webhook_id": "1", "status": "DISABLED", "events": wanted["events"][::-1]}
    assert "secret" not in wanted["description"].rpartition(":")[2]
    assert owned_of_webhook(found) == owned_of_webhook(wanted)
    for other in (declared("http://receiver/mlflow", "another"), declared("http://other/mlflow", "secret")):
        assert owned_of_webhook(found) != owned_of_webhook(other)
    assert owned_of_webhook(found | {"events": wanted["events"][:1]}) != owned_of_webhook(wanted)

    api = Answers({"2.0/mlflow/webhooks": (200, {"webhooks": [found]})})
    assert ensure_webhook(api, "http://receiver/mlflow", "secret") is Change.THERE
    assert not api.done
    assert ensure_webhook(api, "http://other/mlflow", "secret") is Change.CHANGED
    ((method, path, body),) = api.done
    assert (method, path) == ("PATCH", "2.0/mlflow/webhooks/1")
    assert "status" not in body
    twice = Answers({"2.0/mlflow/webhooks": (200, {"webhooks": [found, found]})})
    with pytest.raises(BadInputError, match="has 2 webhooks named 'slipway'"):
        ensure_webhook(twice, "http://receiver/mlflow", "secret")


@pytest.mark.parametrize(
    ("region", "asked"),
    [
        ("us-east-1", {"Bucket": "b"}),
        ("eu-central-1", {"Bucket": "b", "CreateBucketConfiguration": {"LocationConstraint": "eu-central-1"}}),
    ],
)
def test_a_bucket_is_made_in_its_region(region: str, asked: dict[str, Any]) -> None:
    import boto3
    from botocore.stub import Stubber

    client = boto3.client("s3", region_name=region, aws_access_key_id="a", aws_secret_access_key="b")
    with Stubber(client) as stub:
        stub.add_client_error("head_bucket", "404", http_status_code=404)
        stub.add_response("create_bucket", {}, asked)
        assert buckets.ensure_bucket(client, "b") is Change.CREATED
        stub.add_response("head_bucket", {}, {"Bucket": "b"})
        assert buckets.ensure_bucket(client, "b") is Change.THERE
        stub.assert_no_pending_responses()


def test_a_name_that_no_bucket_can_have_is_told_before_the_server_is_asked() -> None:
    with pytest.raises(BadInputError, match="'s3://UP_CASE' is no place in S3"):
        list(buckets.bucket_things({"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "SLIPWAY_BUCKET": "UP_CASE"}))


@pytest.mark.parametrize(
    ("code", "status", "error", "told"),
    [
        ("SignatureDoesNotMatch", 403, BadInputError, "the key is not accepted"),
        ("AccessDenied", 403, RejectedError, "ask for the right to read, write and list there"),
        ("InternalError", 500, InfrastructureError, "check the server's log"),
    ],
)
def test_a_bucket_out_of_reach_is_told_with_its_reason(
    code: str, status: int, error: type[Exception], told: str
) -> None:
    """S3 tells a reason only where its answer has a body, which that to `HEAD` has not."""
    import boto3
    from botocore.stub import Stubber

    client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    with Stubber(client) as stub:
        stub.add_client_error("head_bucket", str(status), http_status_code=status)
        stub.add_client_error("list_objects_v2", code, http_status_code=status)
        with pytest.raises(error, match=f"bucket b.*{told}"):
            buckets.ensure_bucket(client, "b")


@pytest.mark.parametrize(
    ("status", "error", "told"),
    [
        (401, BadInputError, "http://prefect asks who you are; set PREFECT_API_AUTH_STRING"),
        (422, BadInputError, r"refused \(422\): why"),
        (503, InfrastructureError, r"failed \(503\): why"),
    ],
)
def test_prefects_refusals_are_told_in_our_words(status: int, error: type[Exception], told: str) -> None:
    request = httpx.Request("GET", "http://prefect/api")
    refused = httpx.HTTPStatusError("no", request=request, response=httpx.Response(status, text="why", request=request))
    found = prefect_side.in_our_words(refused)
    with pytest.raises(error, match=told):
        raise found or AssertionError


def test_what_is_no_error_of_a_server_stays_what_it_is() -> None:
    assert prefect_side.in_our_words(KeyError("a")) is None
