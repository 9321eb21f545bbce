"""A cluster in memory as its API and KServe's controller behave: versions, merge patches, validation, and delay.

Recorded from what KServe 0.20 (``InferenceService.spec.canary``), Gateway API v1 and Kubernetes itself publish.
"""

from __future__ import annotations

import copy
import json
from typing import Any

KINDS = {"inferenceservices": ("serving.kserve.io", "v1beta1"), "httproutes": ("gateway.networking.k8s.io", "v1")}


class ApiError(Exception):
    """As ``kubernetes.client.exceptions.ApiException``."""

    def __init__(self, status: int, reason: str, message: str = "") -> None:
        super().__init__(f"({status}) {reason}")
        self.status, self.reason = status, reason
        self.body = json.dumps({"kind": "Status", "message": message or reason, "code": status})


class Cluster:
    """One InferenceService with canaries; ``lag`` reads of a route pass before the controller has changed it."""

    def __init__(self, service: str = "m", **canaries: int) -> None:
        self.service = service
        self.lag = 0
        self.failure: Exception | None = None
        self.conflicts = 0
        self.patches: list[dict[str, Any]] = []
        self._version = 1
        entries = [
            {"trafficPercent": percent, "predictor": {"name": name, "model": {"modelFormat": {"name": "onnx"}}}}
            for name, percent in canaries.items()
        ]
        self.object: dict[str, Any] = {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": service, "namespace": "ml", "resourceVersion": "1", "generation": 1},
            "spec": {"predictor": {"model": {"modelFormat": {"name": "onnx"}}, "minReplicas": 2}, "canary": entries},
        }
        self._applied = self._weights()
        self._reads_left = 0

    def get_namespaced_custom_object(
        self, group: str, version: str, namespace: str, plural: str, name: str
    ) -> dict[str, Any]:
        self._reach(group, version, namespace, plural)
        if plural == "inferenceservices" and name == self.service:
            return copy.deepcopy(self.object)
        if plural == "httproutes" and name in {self.service, f"{self.service}-predictor"}:
            return self._route(name)
        raise ApiError(404, "Not Found", f'{plural} "{name}" not found')

    def patch_namespaced_custom_object(
        self, group: str, version: str, namespace: str, plural: str, name: str, body: dict[str, Any]
    ) -> dict[str, Any]:
        self._reach(group, version, namespace, plural)
        assert isinstance(body, dict), "the client sends a list as a JSON patch, not as a merge patch"
        if self.conflicts:
            self.conflicts -= 1
            self._changed()  # by somebody else, just now
        current = self.object["metadata"]["resourceVersion"]
        if body.get("metadata", {}).get("resourceVersion", current) != current:
            raise ApiError(
                409, "Conflict", "the object has been modified; please apply your changes to the latest version"
            )
        merged = merge(self.object, body)
        self._validate(merged["spec"]["canary"])
        self.patches.append(copy.deepcopy(body))
        self.object = merged
        self._changed()
        self._reads_left = self.lag
        return copy.deepcopy(self.object)

    def share(self, canary: str) -> int:
        """The percent that traffic obeys now."""
        return self._applied.get(canary, 0)

    def _reach(self, group: str, version: str, namespace: str, plural: str) -> None:
        if self.failure is not None:
            raise self.failure
        if KINDS.get(plural) != (group, version):
            raise ApiError(404, "Not Found", "the server could not find the requested resource")
        if namespace != "ml":
            raise ApiError(
                403, "Forbidden", f'{plural}.{group} is forbidden: cannot get in the namespace "{namespace}"'
            )

    def _changed(self) -> None:
        self._version += 1
        self.object["metadata"]["resourceVersion"] = str(self._version)

    def _weights(self) -> dict[str, int]:
        return {one["predictor"]["name"]: one["trafficPercent"] for one in self.object["spec"]["canary"]}

    def _route(self, name: str) -> dict[str, Any]:
        if self._reads_left:
            self._reads_left -= 1
        else:
            self._applied = self._weights()
        stable = [{"name": f"{self.service}-predictor", "port": 80, "weight": 100 - sum(self._applied.values())}]
        canaries = [
            {"name": f"{self.service}-{canary}-predictor", "port": 80, "weight": percent}
            for canary, percent in self._applied.items()
        ]
        explainer = {"backendRefs": [{"name": f"{self.service}-explainer", "port": 80}]}
        return {"metadata": {"name": name}, "spec": {"rules": [explainer, {"backendRefs": stable + canaries}]}}

    @staticmethod
    def _validate(canaries: list[dict[str, Any]]) -> None:
        for one in canaries:
            percent = one.get("trafficPercent")
            if type(percent) is not int:
                raise ApiError(422, "Unprocessable Entity", "spec.canary.trafficPercent: must be of type integer")
            if not 0 <= percent <= 100:
                raise ApiError(422, "Unprocessable Entity", "spec.canary.trafficPercent: should be from 0 to 100")
        names = [one["predictor"].get("name") for one in canaries]
        denied = 'admission webhook "inferenceservice.kserve-webhook-server.validator" denied the request: '
        if None in names or len(set(names)) < len(names):
            raise ApiError(403, "Forbidden", f"{denied}canary names must be given and unique")
        if sum(one["trafficPercent"] for one in canaries) > 100:
            raise ApiError(403, "Forbidden", f"{denied}the canaries' trafficPercent exceeds 100")


def merge(target: Any, patch: Any) -> Any:
    """``patch`` applied to ``target`` as RFC 7386 says: objects are merged, null removes, a list replaces a list."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = copy.deepcopy(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged
