"""The manifests against what they start, and the rollout's splitter against the service that it is to steer.

There is no cluster: what its API would refuse is held here by structure, and by the stand-in of the splitters'
contract.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from infra.stack import Stack
from infra.stack.workers import OF_WORKERS
from slipway import SILENT
from slipway.cli.commands import app
from slipway.rollout.splitters.kserve import ROUTES, SERVICES, KServePlace, KServeSplitter
from tests.contract.splitters.cluster import Cluster

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "infra" / "kubernetes"
COMPOSE = yaml.safe_load((ROOT / "infra" / "compose.yaml").read_text(encoding="utf-8"))
NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
QUANTITY = re.compile(r"\d+(m|Mi|Gi)?")
FILES = {
    file.name: list(yaml.safe_load_all(file.read_text(encoding="utf-8"))) for file in sorted(FOLDER.glob("*.yaml"))
}
(KUSTOMIZATION,) = FILES.pop("kustomization.yaml")
(SERVICE,) = FILES["inferenceservice.yaml"]
OBJECTS: list[dict[str, Any]] = [one for objects in FILES.values() for one in objects]
VERSIONS = {
    "Namespace": "v1",
    "ConfigMap": "v1",
    "ServiceAccount": "v1",
    "PersistentVolumeClaim": "v1",
    "Service": "v1",
    "Deployment": "apps/v1",
    "Role": "rbac.authorization.k8s.io/v1",
    "RoleBinding": "rbac.authorization.k8s.io/v1",
    "InferenceService": "serving.kserve.io/v1beta1",
}
PLACE = KServePlace("ml", SERVICE["metadata"]["name"], "challenger")


def named(kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in OBJECTS if one["kind"] == kind}


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, deployment in named("Deployment").items():
        yield name, deployment["spec"]["template"]["spec"]
    yield "champion", SERVICE["spec"]["predictor"]
    yield "challenger", SERVICE["spec"]["canary"][0]["predictor"]


PODS = dict(pods())
every_pod = pytest.mark.parametrize("name", PODS)


@pytest.mark.parametrize("one", OBJECTS, ids=lambda one: f"{one['kind']}/{one['metadata']['name']}")
def test_every_object_has_the_version_of_its_kind_and_a_name_that_is_allowed(one: dict[str, Any]) -> None:
    assert one["apiVersion"] == VERSIONS[one["kind"]]
    assert NAME.fullmatch(one["metadata"]["name"])
    assert len(one["metadata"]["name"]) <= 63


def test_kustomize_takes_every_file_but_the_template() -> None:
    assert set(KUSTOMIZATION["resources"]) == FILES.keys() - {"inferenceservice.yaml"}
    assert KUSTOMIZATION["namespace"] in named("Namespace")
    assert SERVICE["metadata"]["namespace"] == KUSTOMIZATION["namespace"]
    images = {one["name"]: one["newTag"] for one in KUSTOMIZATION["images"]}
    built = {service["image"] for service in COMPOSE["services"].values() if "build" in service}
    assert {f"{name}:{tag}" for name, tag in images.items()} <= built
    for deployment in named("Deployment"):
        assert {container["image"] for container in PODS[deployment]["containers"]} <= images.keys()


@pytest.mark.parametrize("name", named("Deployment"))
def test_a_deployment_finds_its_own_pods_and_never_has_two_writers(name: str) -> None:
    spec = named("Deployment")[name]["spec"]
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    claimed = [one for one in PODS[name]["volumes"] if "persistentVolumeClaim" in one]
    assert claimed
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


@every_pod
def test_everything_that_a_pod_names_is_there(name: str) -> None:
    pod = PODS[name]
    if "serviceAccountName" in pod:
        assert pod["serviceAccountName"] in named("ServiceAccount")
    volumes = {one["name"]: one for one in pod["volumes"]}
    for volume in volumes.values():
        if claim := volume.get("persistentVolumeClaim"):
            assert claim["claimName"] in named("PersistentVolumeClaim")
    for container in pod["containers"]:
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
        sources = [source for one in container["envFrom"] for source in one.items()]
        assert sources == [("configMapRef", {"name": "slipway-servers"}), ("secretRef", {"name": "slipway"})]
        ports = {one.get("name"): one["containerPort"] for one in container["ports"]}
        for probe in ("startupProbe", "livenessProbe"):
            (asked,) = [container[probe][kind] for kind in ("httpGet", "tcpSocket") if kind in container[probe]]
            assert asked["port"] in ports or asked["port"] in ports.values()


@every_pod
def test_no_pod_may_more_than_it_needs(name: str) -> None:
    pod = PODS[name]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert {"/tmp", "/home/slipway"} <= mounts
        assert container["workingDir"] in {*mounts, "/project"}


@every_pod
def test_every_pod_says_what_it_needs(name: str) -> None:
    for container in PODS[name]["containers"]:
        for sizes in container["resources"].values():
            assert all(QUANTITY.fullmatch(size) for size in sizes.values())
        assert "memory" in container["resources"]["limits"]
        if name != "receiver":  # what is timed, or timed against a reference, has whole CPUs of its own
            asked, allowed = container["resources"]["requests"], container["resources"]["limits"]
            assert asked["cpu"] == allowed["cpu"]
            assert asked["cpu"].isdecimal()
            assert asked["memory"] == allowed["memory"]


@every_pod
def test_every_command_is_one_that_the_image_has(name: str) -> None:
    for container in PODS[name]["containers"]:
        program, *arguments = container["command"]
        if program == "prefect":
            assert container["command"] == COMPOSE["services"]["worker"]["command"]
            continue
        assert program == "slipway"
        command, *options = arguments
        group = typer.main.get_command(app)
        made = group.commands[command].make_context(command, options)  # type: ignore[attr-defined]
        assert made.params["host"] == "0.0.0.0"
        assert made.params["port"] in {one["containerPort"] for one in container["ports"]}


def test_its_worker_outlasts_what_the_stacks_outlasts() -> None:
    (worker,) = PODS["slipway-worker"]["containers"]
    own = {one["name"]: one["value"] for one in worker["env"]}
    assert OF_WORKERS.items() <= (named("ConfigMap")["slipway-servers"]["data"] | own).items()


def test_two_workers_are_never_on_one_node() -> None:
    """They would share its CPUs while they time, and not the lock that keeps benchmarks apart."""
    labels = named("Deployment")["slipway-worker"]["spec"]["template"]["metadata"]["labels"]
    anti = PODS["slipway-worker"]["affinity"]["podAntiAffinity"]
    (rule,) = anti["requiredDuringSchedulingIgnoredDuringExecution"]
    assert rule == {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": labels}}


def test_the_receiver_is_where_the_servers_are_told_it_is() -> None:
    url = named("ConfigMap")["slipway-servers"]["data"]["SLIPWAY_WEBHOOK_URL"]
    service = named("Service")["receiver"]
    (port,) = service["spec"]["ports"]
    assert url == f"http://{service['metadata']['name']}:{port['port']}/mlflow"
    deployment = named("Deployment")["receiver"]["spec"]["template"]
    assert service["spec"]["selector"].items() <= deployment["metadata"]["labels"].items()
    (listening,) = deployment["spec"]["containers"][0]["ports"]
    assert port["targetPort"] == listening["name"]


def test_the_servers_and_the_secret_are_what_the_stack_tells(tmp_path: Path) -> None:
    told = named("ConfigMap")["slipway-servers"]["data"]
    text = (FOLDER / "servers.yaml").read_text(encoding="utf-8")
    (comment,) = re.findall(r"^# with (.*?)\.$", text, re.MULTILINE | re.DOTALL)
    secret = set(re.findall(r"[A-Z][A-Z0-9_]+", comment))

    assert secret | told.keys() >= Stack(tmp_path).environment.keys()
    assert not secret & told.keys()
    assert all(re.search("PASSWORD|SECRET|KEY|AUTH_STRING|ROLLOUTS_URL", name) for name in secret)
    assert not [name for name in told if re.search("PASSWORD|SECRET|KEY|AUTH_STRING", name)]
    assert told.items() >= SILENT.items()
    here = COMPOSE["x-clients"]
    assert {name: here[name] for name in told.keys() & here.keys()} == {
        name: told[name] for name in told.keys() & here.keys()
    } | {"AWS_DEFAULT_REGION": here["AWS_DEFAULT_REGION"]}


def test_a_rollout_may_do_what_the_splitter_asks_and_nothing_else() -> None:
    role = named("Role")["slipway-rollout"]
    rights = {
        (group, plural): rule["verbs"]
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for plural in rule["resources"]
    }
    assert rights == {(SERVICES[0], "inferenceservices"): ["get", "patch"], (ROUTES[0], "httproutes"): ["get"]}
    binding = named("RoleBinding")["slipway-rollout"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert [one["name"] for one in binding["subjects"]] == [PODS["slipway-worker"]["serviceAccountName"]]


def test_nobody_else_gets_a_token_of_the_cluster() -> None:
    assert named("ServiceAccount")["slipway-receiver"]["automountServiceAccountToken"] is False
    assert PODS["receiver"]["automountServiceAccountToken"] is False


# The template of a served engine


@pytest.fixture
def cluster() -> Cluster:
    """Holds the template as its own object."""
    held = Cluster(PLACE.service)
    held.object["spec"] = SERVICE["spec"]
    held._validate(held.object["spec"]["canary"])
    return held


@pytest.mark.parametrize("percent", [1, 50, 100])
def test_the_splitter_steers_the_template(cluster: Cluster, percent: int) -> None:
    splitter = KServeSplitter(cluster, PLACE, lambda _: (0, 0))

    splitter.set_share(percent)
    assert splitter.share() == percent
    splitter.rollback()

    assert splitter.share() == 0
    assert cluster.object["spec"] == SERVICE["spec"]


def test_the_template_starts_with_no_traffic_for_the_challenger() -> None:
    assert SERVICE["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Standard"
    assert [one["trafficPercent"] for one in SERVICE["spec"]["canary"]] == [0]
    text = (FOLDER / "inferenceservice.yaml").read_text(encoding="utf-8")
    assert f'KServePlace(namespace="slipway", service="{PLACE.service}", canary="{PLACE.canary}")' in text


def test_champion_and_challenger_differ_in_nothing_but_the_alias() -> None:
    champion, challenger = dict(PODS["champion"]), dict(PODS["challenger"])
    assert challenger.pop("name") == "challenger"
    commands = [one["containers"][0]["command"] for one in (champion, challenger)]
    assert [[*commands[0]], [*commands[1]]] == [
        [word if word != "challenger" else "champion" for word in commands[1]],
        [word if word != "champion" else "challenger" for word in commands[0]],
    ]
    for one in (champion, challenger):
        one["containers"] = [container | {"command": None} for container in one["containers"]]
    assert champion == challenger


@pytest.mark.parametrize("name", ["champion", "challenger"])
def test_kserve_finds_its_container_and_when_it_is_ready(name: str) -> None:
    (container,) = PODS[name]["containers"]
    assert container["name"] == "kserve-container"
    assert container["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/v2/health/live"
    assert container["image"] in {service.get("image") for service in COMPOSE["services"].values()}
