"""Audits in MLflow: one run each beside the candidates' runs, with what was measured, told on the champion's version.

The log of who changed an alias or a tag is another thing: ``slipway.stores.mlflow_audit``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from slipway.decisions.audit import LEARNT
from slipway.records import Audit, RequestedRelease, Verdict
from slipway.stores.mlflow_connection import Connection
from slipway.stores.mlflow_releases import (
    EXPERIMENT,
    KIND_TAG,
    MODEL_TAG,
    TARGET_TAG,
    log_figures,
    params_of,
)
from slipway.stores.registry import AUDIT_TAG, AUDITED_AT_TAG, DIGEST_TAG, canonical_json

FINDING_TAG, REQUEST_TAG = "slipway.finding", "slipway.release_request"
KIND = "audit"


def record_audit(connection: Connection, audit: Audit) -> str:
    """See ``Registry.record_audit``."""
    model, _, target = audit.name.rpartition(".")
    verdict = audit.decision.verdict.value
    tags = {KIND_TAG: KIND, MODEL_TAG: model, TARGET_TAG: target, "slipway.verdict": verdict}
    digest = audit.recorded.digest if audit.recorded else None
    further = {DIGEST_TAG: digest, FINDING_TAG: audit.finding, REQUEST_TAG: audit.request}
    tags |= {key: value for key, value in further.items() if value is not None}
    named = f"audit of {audit.name}" + (f" version {audit.version}" if audit.version else "")
    with connection.run(connection.experiment(EXPERIMENT), named, tags) as run_id:
        connection.client.log_text(run_id, canonical_json(audit), "audit.json")
        if audit.fresh:
            log_figures(connection, run_id, None, params_of(audit.fresh), audit.fresh)
    if audit.version is not None:
        told = {AUDITED_AT_TAG: audit.at.isoformat(timespec="seconds"), AUDIT_TAG: verdict}
        for key, value in told.items():
            connection.client.set_model_version_tag(audit.name, audit.version, key, value)
    return run_id


def requested_release(connection: Connection, audit: Audit) -> RequestedRelease | None:
    """See ``Registry.requested_release``."""
    if audit.finding is None or audit.recorded is None:
        return None
    experiment = connection.experiment(EXPERIMENT)
    condition = f"tags.`{KIND_TAG}` = '{KIND}' and tags.`{FINDING_TAG}` = '{audit.finding}'"
    asked = [run for run in connection.search_runs(experiment, condition) if REQUEST_TAG in run.data.tags]
    if not asked:
        return None
    first, last = (run.info.start_time for run in (asked[-1], asked[0]))
    model, _, target = audit.name.rpartition(".")
    of_model = f"tags.`{KIND_TAG}` = 'release' and tags.`{MODEL_TAG}` = '{model}'"
    since = f"params.model_uri = '{audit.recorded.model_uri}' and attributes.start_time > {first}"
    runs = connection.search_runs(experiment, f"{of_model} and {since} and attributes.status = 'FINISHED'")
    ended = [(run.data.tags.get(f"slipway.verdict.{target}"), str(run.info.run_id)) for run in runs]
    verdict, run_id = next(((Verdict(v), run_id) for v, run_id in ended if v in LEARNT), (None, None))
    return RequestedRelease(first_asked=_moment(first), last_asked=_moment(last), ended=verdict, run_id=run_id)


def _moment(milliseconds: Any) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, tz=UTC)
