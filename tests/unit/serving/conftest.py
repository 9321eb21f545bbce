"""One engine, registered in an MLflow store of its own with the file by which MLflow loads it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import slipway
from slipway.engines import engine
from slipway.engines.base import RunOptions
from slipway.records import Evidence, Form
from slipway.serving.answering.served import ServedModel
from slipway.serving.http.access_log import AccessLog
from slipway.serving.http.app import InferenceServer
from slipway.serving.http.inference_json import Array
from slipway.stores.mlflow_registry import MlflowRegistry
from tests.fakes.evidence import evidence, release
from tests.unit.serving.asking import LIMITS, NAME
from tests.unit.steps.material import Material, images, make_material

PYFUNC_CODE = Path(slipway.__file__).parent / "serving" / "pyfunc_engine.py"


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """The tiny model."""
    return make_material(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory, material: Material) -> MlflowRegistry:
    """``tiny.x86`` version 1 is an OpenVINO directory, version 2 an ONNX file and champion."""
    root = tmp_path_factory.mktemp("mlflow")
    store = MlflowRegistry(f"sqlite:///{root}/mlflow.db", root / "mlartifacts", PYFUNC_CODE)
    for runtime in ("openvino", "onnxruntime"):
        found = evidence_of(material, runtime)
        artifact = material.built("fp32", runtime, Form.ONNX).artifact
        path = material.objects.path(artifact)
        recorded = store.record_release(release(found, model="tiny"), {artifact.digest: path}, [])
        version = store.register("tiny.x86", recorded, found)
        store.promote("tiny.x86", version, None, None)
    return store


def evidence_of(material: Material, runtime: str) -> Evidence:
    """What a release would record of it; ``threads`` was found best."""
    built = material.built("fp32", runtime, Form.ONNX)
    return evidence(
        built.artifact.digest,
        spec=built.spec,
        options=built.options | {"threads": 1},
        signature=material.source.signature,
    )


@pytest.fixture
def model(material: Material) -> ServedModel:
    """The tiny model on ONNX Runtime, opened."""
    found = evidence_of(material, "onnxruntime")
    return ServedModel(
        NAME, "7", found, material.objects.path(material.built("fp32", "onnxruntime", Form.ONNX).artifact)
    )


@pytest.fixture
def client(model: ServedModel) -> Iterator[TestClient]:
    """A client of a server that is up."""
    with TestClient(InferenceServer(model, LIMITS, AccessLog(None)).app(), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def expected(material: Material) -> Array:
    """The engine's own answer to three images."""
    path = material.objects.path(material.built("fp32", "onnxruntime", Form.ONNX).artifact)
    with engine("onnxruntime").load(path, RunOptions()) as session:
        return session.infer({"image": images(3)})["logits"]
