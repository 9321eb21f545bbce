"""What Triton tells of a model beyond the protocol, which its clients and load generators ask for."""

from __future__ import annotations

from typing import Any

from slipway.records import TensorSpec
from slipway.serving.answering.served import ServedModel
from slipway.serving.http.inference_json import DATATYPES


def configuration(model: ServedModel, max_batch: int) -> dict[str, Any]:
    """The model's configuration, as Triton's model configuration extension writes it; sizes without the batch."""
    backend = model.evidence.spec.engine
    return {
        "name": model.name,
        "platform": f"slipway_{backend}",
        "backend": backend,
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": max_batch,
        "input": [_port(spec) for spec in model.inputs],
        "output": [_port(spec) for spec in model.outputs],
        "parameters": {"slipway.digest": {"string_value": model.digest}},
    }


def statistics(model: ServedModel) -> dict[str, Any]:
    """What became of the model's requests, as Triton's statistics extension writes it; times in ns."""
    found = model.statistics
    inside = {"queue": found.queue.told(), "compute_infer": found.infer.told()}
    return {
        "name": model.name,
        "version": model.version,
        "last_inference": found.last_ms,
        "inference_count": found.examples,
        "execution_count": found.infer.count,
        "inference_stats": {"success": found.success.told(), "fail": found.fail.told(), **inside},
        "batch_stats": [
            {"batch_size": size, "compute_infer": count.told()} for size, count in sorted(found.batches.copy().items())
        ],
    }


def _port(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "data_type": f"TYPE_{DATATYPES[spec.dtype]}", "dims": list(spec.shape[1:])}
