"""The splitter on Kubernetes: the share of a KServe canary, which KServe makes weights of the Gateway API.

Written to the interfaces that KServe 0.20 and Gateway API v1 publish, and tested against a stand-in that enforces them;
it was not run on a cluster.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, cast

from slipway.errors import BadInputError, InfrastructureError, UnsupportedError
from slipway.rollout.splitters.base import check_percent

SERVICES = ("serving.kserve.io", "v1beta1")
ROUTES = ("gateway.networking.k8s.io", "v1")
WAIT_SECONDS = 60.0
POLL_SECONDS = 0.25
TRIES = 5
FORBIDDEN, MISSING, CONFLICT, INVALID = 403, 404, 409, 422

Object: TypeAlias = dict[str, Any]
Counts: TypeAlias = Callable[[float], tuple[int, int]]


class CustomObjects(Protocol):
    """What is asked of ``kubernetes.client.CustomObjectsApi``; its errors bear the HTTP ``status``."""

    def get_namespaced_custom_object(self, group: str, version: str, namespace: str, plural: str, name: str) -> Object:
        """The object."""
        ...

    def patch_namespaced_custom_object(
        self, group: str, version: str, namespace: str, plural: str, name: str, body: Object
    ) -> Object:
        """Change the object by a JSON merge patch (RFC 7386); what it is afterwards."""
        ...


@dataclass(frozen=True)
class KServePlace:
    """An InferenceService in a namespace, and the name of the entry in its ``spec.canary`` that is the challenger."""

    namespace: str
    service: str
    canary: str

    def __str__(self) -> str:
        return f"inferenceservice {self.namespace}/{self.service}"


def cluster_objects() -> CustomObjects:
    """The objects of the cluster that this process runs in, or else that kubectl would ask.

    Raises:
        UnsupportedError: the client is not installed.
        InfrastructureError: no cluster is configured.
    """
    try:
        from kubernetes import client, config
    except ImportError as error:
        raise UnsupportedError(
            "KServe is steered by Kubernetes' client, which is not installed; install it: pip install 'slipway[kserve]'"
        ) from error
    try:
        config.load_config()  # in a pod its service account, else kubectl's configuration
    except config.ConfigException as error:
        raise InfrastructureError(f"no cluster is configured: {error}; set KUBECONFIG, or run in a pod") from error
    return cast("CustomObjects", client.CustomObjectsApi())


class KServeSplitter:
    """``slipway.rollout.splitters.base.Splitter`` on an InferenceService in Standard mode with a named canary.

    KServe knows whole percents only. ``counts`` tells how many requests (champion's, challenger's) there were since a
    time in seconds since 1970: the cluster's interface does not know; its metrics do. Not run on a cluster.
    """

    def __init__(
        self, objects: CustomObjects, place: KServePlace, counts: Counts, wait_seconds: float = WAIT_SECONDS
    ) -> None:
        self._objects = objects
        self._place = place
        self._counts = counts
        self._wait_seconds = wait_seconds

    def set_share(self, percent: float) -> None:
        """See ``Splitter.set_share``; waits until KServe has given the routes their weights.

        Raises:
            BadInputError: also, the share is no whole percent, or the service has no such canary.
        """
        check_percent(percent)
        if percent != int(percent):
            raise BadInputError(f"KServe splits by whole percents, not {percent:g}%; give whole canary.steps")
        self._patch(int(percent))
        deadline = time.monotonic() + self._wait_seconds
        while set(shares := self._shares()) - {percent} or (percent and not shares):
            if time.monotonic() > deadline:
                raise InfrastructureError(
                    f"the routes of {self._place} did not take a share of {percent:g}% within "
                    f"{self._wait_seconds:g} s, they have {', '.join(f'{one:g}%' for one in shares) or 'none'}; see "
                    "whether KServe's controller runs and has enableGatewayApi, in version 0.20 or later"
                )
            time.sleep(POLL_SECONDS)

    def rollback(self) -> None:
        """See ``Splitter.rollback``; here it is the share 0, as quick as KServe's controller."""
        self.set_share(0)

    def share(self) -> float:
        """See ``Splitter.share``; the largest that a route has, while KServe changes one after the other."""
        return max(self._shares(), default=0.0)

    def observed_share(self, since_s: float) -> float | None:
        """See ``Splitter.observed_share``."""
        champion, challenger = self._counts(since_s)
        total = champion + challenger
        return 100 * challenger / total if total else None

    def _patch(self, percent: int) -> None:
        for _ in range(TRIES):
            service = self._get(SERVICES, "inferenceservices", self._place.service)
            canaries: list[Object] = service["spec"].get("canary") or []
            found = [one for one in canaries if one["predictor"].get("name") == self._place.canary]
            if not found:
                known = ", ".join(str(one["predictor"].get("name")) for one in canaries) or "none"
                raise BadInputError(
                    f"{self._place} has no canary {self._place.canary!r}, it has {known}; add one to its spec.canary"
                )
            if found[0].get("trafficPercent", 0) == percent:
                return
            # A merge patch replaces a list as a whole; with the version that was read, nobody else's change is lost.
            changed = [one | {"trafficPercent": percent} if one in found else one for one in canaries]
            version = {"resourceVersion": service["metadata"]["resourceVersion"]}
            try:
                self._objects.patch_namespaced_custom_object(
                    *SERVICES,
                    self._place.namespace,
                    "inferenceservices",
                    self._place.service,
                    {"metadata": version, "spec": {"canary": changed}},
                )
            except Exception as error:  # the client's own kinds are known only where it is installed
                if getattr(error, "status", None) != CONFLICT:
                    raise self._told(error, f"patch {self._place}") from error
            else:
                return
        raise InfrastructureError(f"{self._place} was changed by others {TRIES} times in a row; repeat")

    def _shares(self) -> list[float]:
        """The share in percent of each rule that knows the canary, in the routes of the service and its predictor."""
        names = (self._place.service, f"{self._place.service}-predictor")
        routes = [route for name in names if (route := self._route(name)) is not None]
        if not routes:
            raise InfrastructureError(
                f"{self._place} has no HTTPRoute; KServe needs Standard mode and enableGatewayApi to split traffic"
            )
        rules = (rule for route in routes for rule in route["spec"].get("rules", ()))
        return list(self._weights(rules))

    def _weights(self, rules: Iterator[Object]) -> Iterator[float]:
        backend = f"{self._place.service}-{self._place.canary}-predictor"
        for rule in rules:
            weights = {one["name"]: one.get("weight", 1) for one in rule.get("backendRefs", ())}
            total = sum(weights.values())
            if backend in weights and total:
                yield 100 * weights[backend] / total

    def _route(self, name: str) -> Object | None:
        try:
            return self._get(ROUTES, "httproutes", name)
        except BadInputError:
            return None

    def _get(self, kind: tuple[str, str], plural: str, name: str) -> Object:
        try:
            return self._objects.get_namespaced_custom_object(*kind, self._place.namespace, plural, name)
        except Exception as error:  # the client's own kinds are known only where it is installed
            raise self._told(error, f"read {plural} {self._place.namespace}/{name}") from error

    def _told(self, error: Exception, asked: str) -> BadInputError | InfrastructureError:
        """The client's error in words."""
        status, reason = getattr(error, "status", None), _reason(error)
        if status == MISSING:
            return BadInputError(f"cannot {asked}: there is none; check the namespace and the name")
        if status == INVALID:
            return BadInputError(f"cannot {asked}: the cluster refuses it: {reason}; mend the service's spec.canary")
        if status == FORBIDDEN:
            return InfrastructureError(
                f"cannot {asked}: {reason}; give this account get and patch on inferenceservices and get on httproutes"
            )
        return InfrastructureError(f"cannot {asked}: {reason}; see whether the cluster can be reached")


def _reason(error: Exception) -> str:
    """What the cluster said; a refusal by KServe's own validation stands in the answer's body alone."""
    with suppress(TypeError, ValueError, KeyError):
        return str(json.loads(getattr(error, "body", ""))["message"])
    return str(getattr(error, "reason", None) or error)
