"""Summarize a model's inputs, once for all candidates of a release."""

from __future__ import annotations

from prefect import task

from slipway.records import Artifact, Signature
from slipway.steps.inputs import InputData
from slipway.steps.inputs import summarize_inputs as summarize_inputs_step
from slipway.stores.objects import ObjectStore
from tasks.policy import CACHED, RETRIED, TOLD


@task(name="summarize", task_run_name="summarize inputs", **CACHED, **RETRIED, **TOLD)
def summarize_inputs(objects: ObjectStore, signature: Signature, read: InputData) -> Artifact:
    """How the values of every input are distributed in the calibration data, or without any in the test data."""
    return summarize_inputs_step(objects, signature, read)
