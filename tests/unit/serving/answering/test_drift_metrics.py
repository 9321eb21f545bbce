"""Input drift as Prometheus reads it from a server."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from slipway.decisions.drift import DRIFTED
from slipway.records import Form
from slipway.serving.answering.local_engine import Origin
from slipway.serving.answering.served import ServedModel
from slipway.serving.http.access_log import AccessLog
from slipway.serving.http.app import InferenceServer
from slipway.steps.inputs import InputData, summarize_inputs
from tests.unit.serving.asking import INFER, LIMITS, NAME, in_binary, packed
from tests.unit.serving.conftest import evidence_of
from tests.unit.steps.material import Material, images


@pytest.mark.parametrize(("factor", "drifted"), [(1, False), (10, True)])
def test_inputs_of_another_scale_are_told_as_drift(material: Material, factor: float, drifted: bool) -> None:
    read = InputData(source="calibration", data=material.calibration)
    kept = material.objects.path(summarize_inputs(material.objects, material.source.signature, read))
    path: Path = material.objects.path(material.built("fp32", "onnxruntime", Form.ONNX).artifact)
    found = evidence_of(material, "onnxruntime")
    model = ServedModel(NAME, "7", found, path, Origin(companions={"inputs.json": kept}))

    with TestClient(InferenceServer(model, LIMITS, AccessLog(None)).app()) as client:
        for seed in range(60):
            told, blob = in_binary(images(4, seed=seed) * np.float32(factor))
            client.post(INFER, **packed({"inputs": [told]}, blob)).raise_for_status()
        text = client.get("/metrics").text

    (value,) = re.findall(r"^slipway_input_psi\{.*\} (.*)$", text, re.MULTILINE)
    assert (float(value) > DRIFTED) is drifted
    assert f'slipway_input_examples{{input="image",model="{NAME}",version="7"}} 240.0' in text
