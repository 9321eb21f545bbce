"""The protocol's published OpenAPI description: schemathesis makes requests of it, and holds the answers against it.

The description is that of MLServer, by co-authors of the protocol, as its package on PyPI holds it (Apache-2.0). It is
right but for this:

- A tensor's data are of no JSON type "bytes", which does not exist.
- A name or version that is not served is 404 for readiness too.
- A server is not meant to answer 500.
- ``generate`` and the streams are MLServer's own, as is that a server loads and unloads what a client names.
"""

from __future__ import annotations

import copy
import json
import zipfile
from collections import Counter
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from slipway.errors import InfrastructureError
from slipway.examples.downloads import Package
from tests.integration.serving.conftest import Served

pytestmark = pytest.mark.integration

MLSERVER = Package(
    client="pip",
    name="mlserver",
    version="1.7.1",
    filename="mlserver-1.7.1-py3-none-any.whl",
    sha256="d2ac7502915bb5311343a878aa1fb614f9b0f2436ee550a6137c1872a4dca193",
    size_mb=1,
)
STREAMS = ("infer_stream", "generate", "generate_stream", "load", "unload")
ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/InferenceErrorResponse"}}}
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
BUDGET = settings(
    max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def description(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Data plane and model repository as one, put right as said above."""
    try:
        wheel = MLSERVER.fetch(tmp_path_factory.mktemp("description"))
    except InfrastructureError as error:
        pytest.skip(f"the description cannot be had: {error}")
    with zipfile.ZipFile(wheel) as packed:
        names = ("dataplane", "model_repository")
        plane, repository = (json.loads(packed.read(f"mlserver/rest/openapi/{name}.json")) for name in names)
    paths = plane["paths"] | repository["paths"]
    schemas = plane["components"]["schemas"] | repository["components"]["schemas"] | plane["components"]["enums"]
    schemas["TensorData"] = {"type": "array", "items": {}}
    kept = {path: item for path, item in paths.items() if path.rpartition("/")[2] not in STREAMS}
    for path, item in kept.items():
        for operation in (item[by] for by in ("get", "post") if by in item):
            if "{" in path:
                operation["responses"] |= {"404": {"description": "unknown", "content": ERROR}}
            operation["responses"].pop("500", None)
    whole = plane | {"paths": kept, "components": {"schemas": schemas}}
    told: dict[str, Any] = json.loads(json.dumps(whole).replace("#/components/enums/", "#/components/schemas/"))
    return told


def operations_of(description: dict[str, Any], ending: str = "") -> list[Any]:
    schema = schemathesis.openapi.from_dict(copy.deepcopy(description))
    return [found.ok() for found in schema.get_all_operations() if found.ok().path.endswith(ending)]


def ask(operation: Any, served: Served, **given_: Any) -> Counter[int]:
    """Ask as often as the budget says, and hold each answer against the description; how often each status came."""
    statuses: Counter[int] = Counter()

    @BUDGET
    @given(case=operation.as_strategy(**given_))
    def asked(case: Case) -> None:
        response = case.call_and_validate(base_url=served.url, checks=CHECKS, timeout=30)
        statuses[response.status_code] += 1

    asked()
    return statuses


def test_whatever_the_description_allows_is_answered_as_it_says(description: dict[str, Any], served: Served) -> None:
    operations = operations_of(description)

    assert len(operations) == 10
    for operation in operations:
        statuses = ask(operation, served)
        assert set(statuses) == {404} if "{" in operation.path else set(statuses) == {200}


def test_whatever_it_allows_of_the_served_model_is_answered_as_it_says(
    description: dict[str, Any], served: Served
) -> None:
    for operation in operations_of(description):
        statuses = ask(operation, served, path_parameters=named(operation, served))
        assert set(statuses) == ({400} if operation.path.endswith("/infer") else {200})


def test_what_it_forbids_to_send_is_refused(description: dict[str, Any], served: Served) -> None:
    for operation in operations_of(description, "/infer"):
        statuses = ask(
            operation, served, generation_mode=GenerationMode.NEGATIVE, path_parameters=named(operation, served)
        )
        assert set(statuses) <= {400, 404, 405}
        assert statuses[400] > BUDGET.max_examples / 2


def test_what_is_nearly_what_the_model_takes_is_answered_or_refused(
    description: dict[str, Any], served: Served
) -> None:
    """A description of this model: right names, and types, shapes and data that may be right."""
    numbers = {"type": "number", "minimum": -1e3, "maximum": 1e3}
    row = {"type": "array", "items": numbers, "minItems": 63, "maxItems": 65}
    close = copy.deepcopy(description)
    close["components"]["schemas"]["RequestInput"] |= {
        "properties": {
            "name": {"enum": ["x"]},
            "datatype": {"enum": ["FP32", "FP64", "INT8", "BYTES"]},
            "shape": {"enum": [[1, 64], [2, 64], [64], [1, 65], [0, 64], [-1, 64], [1, 1, 64]]},
            "data": {"anyOf": [row, {"type": "array", "items": row, "maxItems": 2}]},
        },
    }
    close["components"]["schemas"]["InferenceRequest"]["properties"]["inputs"] |= {"minItems": 1, "maxItems": 2}
    right = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 64], "data": [[0.5] * 64] * 2}], "id": "seven"}

    for operation in operations_of(close, "/infer"):
        parameters = named(operation, served)
        assert set(ask(operation, served, path_parameters=parameters)) <= {200, 400}
        assert set(ask(operation, served, path_parameters=parameters, body=right)) == {200}


def named(operation: Any, served: Served) -> dict[str, str]:
    """Those of the operation's path parameters that name the served model."""
    known = {"model_name": served.name, "model_version": served.version}
    return {name: value for name, value in known.items() if f"{{{name}}}" in operation.path}
