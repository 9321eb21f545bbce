"""Rollouts in MLflow: one run each, with what it was decided on, linked to from the challenger's version."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slipway.records import Rollout
from slipway.stores.mlflow_connection import Connection
from slipway.stores.mlflow_releases import EXPERIMENT, KIND_TAG, MODEL_TAG, TARGET_TAG
from slipway.stores.registry import DIGEST_TAG, ROLLOUT_RUN_TAG

ROLLOUT_TAG, PHASE_TAG = "slipway.rollout", "slipway.phase"


def record_rollout(connection: Connection, rollout: Rollout, files: Sequence[Path]) -> str:
    """See ``Registry.record_rollout``."""
    client, challenger = connection.client, rollout.challenger
    run_id = _run(connection, rollout)
    for file in files:
        client.log_artifact(run_id, str(file))
    client.set_tag(run_id, PHASE_TAG, rollout.phase.value)
    client.set_model_version_tag(rollout.name, challenger.version, ROLLOUT_RUN_TAG, run_id)
    return run_id


def _run(connection: Connection, rollout: Rollout) -> str:
    """The run of the rollout: the one that it has, else a new one."""
    experiment = connection.experiment(EXPERIMENT)
    found = connection.search_runs(experiment, f"tags.`{ROLLOUT_TAG}` = '{rollout.rollout_id}'")
    if found:
        return str(found[0].info.run_id)
    model, _, target = rollout.name.rpartition(".")
    champion, challenger = rollout.champion.version, rollout.challenger.version
    tags = {
        KIND_TAG: "rollout",
        ROLLOUT_TAG: rollout.rollout_id,
        MODEL_TAG: model,
        TARGET_TAG: target,
        DIGEST_TAG: rollout.challenger.digest,
    }
    with connection.run(experiment, f"canary {rollout.name}: {challenger} beside {champion}", tags) as run_id:
        connection.client.log_param(run_id, "policy", rollout.policy_json)
    return run_id
