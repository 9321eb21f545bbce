"""Releases in MLflow: one parent run each; one child run and LoggedModel per candidate, with its evidence."""

from __future__ import annotations

import json
import os
import re
import socket
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import psutil
from pydantic import ValidationError

import slipway
from slipway.decisions.precision import executed
from slipway.decisions.reconciliation import FinishedRelease
from slipway.errors import BadInputError, InfrastructureError, TamperedError
from slipway.records import Evidence, Record, Release, Signature, Timing, Verdict
from slipway.stores.mlflow_connection import Connection, mlflow_signature
from slipway.stores.objects import digest_of
from slipway.stores.registry import (
    DIGEST_TAG,
    EVIDENCE_TAG,
    Attachments,
    RecordedRelease,
    canonical_json,
    check_digest_prefix,
    evidence_sha256,
    parse_model_uri,
    release_key,
)

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.models import Model

T = TypeVar("T", bound=Record)

EXPERIMENT = "slipway"
KIND_TAG, MODEL_TAG, TARGET_TAG = "slipway.kind", "slipway.model", "slipway.target"
KEY_TAG, OWNER_TAG, MODEL_ID_TAG = "slipway.release_key", "slipway.owner", "slipway.model_id"
VERDICT_TAG = "slipway.verdict."
PARENT_TAG, NOTE_TAG = "mlflow.parentRunId", "mlflow.note.content"
MADE_BY_TAG = "slipway.prefect_run"
DATASET_NAME = "test"
ABANDONED_AFTER_SECONDS = 3600  # recording takes seconds: nothing is measured while a run is open


def record_release(
    connection: Connection,
    pyfunc_code: Path,
    release: Release,
    engine_paths: Mapping[str, Path],
    files: Sequence[Path],
    attachments: Attachments,
) -> RecordedRelease:
    """See ``Registry.record_release``."""
    key = release_key(release)
    experiment = connection.experiment(EXPERIMENT)
    if earlier := _recorded(connection, experiment, key):
        return earlier
    check_engine_files(release, engine_paths)
    _end_abandoned(connection, experiment, release.model.name)
    client, model = connection.client, release.model
    tags = {KIND_TAG: "release", KEY_TAG: key, MODEL_TAG: model.name, OWNER_TAG: _owner()}
    tags |= {f"{VERDICT_TAG}{outcome.target}": outcome.decision.verdict.value for outcome in release.targets}
    model_ids: dict[str, str] = {}
    with connection.run(experiment, f"{model.name}/{model.version}", tags) as run_id:
        for param, value in (("model_uri", model.uri), ("data_md5", release.data_md5), ("metric", release.metric)):
            client.log_param(run_id, param, value)
        for file in files:
            client.log_artifact(run_id, str(file))
        for outcome in release.targets:
            for evidence in outcome.candidates:
                sha256 = evidence_sha256(evidence)
                attached = attachments.get(sha256, ())
                model_id = _record_candidate(connection, pyfunc_code, release, evidence, engine_paths, run_id, attached)
                if model_id is not None:
                    model_ids[sha256] = model_id
        client.log_text(run_id, canonical_json(release), "release.json")
    return RecordedRelease(run_id=run_id, model_ids=model_ids)


def candidates(connection: Connection, model_name: str, target: str | None) -> list[Evidence]:
    """See ``Registry.candidates``."""
    experiment = connection.experiment(EXPERIMENT)
    condition = _tags({KIND_TAG: "release", MODEL_TAG: model_name}) + " and attributes.status = 'FINISHED'"
    runs = connection.search_runs(experiment, condition)
    releases = [read_record(connection, f"{run.info.artifact_uri}/release.json", Release) for run in runs]
    outcomes = [outcome for release in releases for outcome in release.targets if target in {None, outcome.target}]
    return [evidence for outcome in outcomes for evidence in outcome.candidates]


def released(connection: Connection, model_name: str) -> list[FinishedRelease]:
    """See ``Registry.released``."""
    experiment = connection.experiment(EXPERIMENT)
    condition = _tags({KIND_TAG: "release", MODEL_TAG: model_name}) + " and attributes.status = 'FINISHED'"
    found = []
    for run in connection.search_runs(experiment, condition):
        verdicts = {value for key, value in run.data.tags.items() if key.startswith(VERDICT_TAG)}
        version = parse_model_uri(run.data.params["model_uri"])[1]
        if Verdict.ERROR not in verdicts and version is not None:
            found.append(FinishedRelease(version, run.data.params["data_md5"]))
    return found


def link(connection: Connection, run_id: str, address: str) -> None:
    """See ``MlflowRegistry.link_release``."""
    if MADE_BY_TAG not in connection.client.get_run(run_id).data.tags:
        connection.client.set_tag(run_id, NOTE_TAG, f"Released by [this run in Prefect]({address}).")
        connection.client.set_tag(run_id, MADE_BY_TAG, address)


def pages(connection: Connection, run_id: str) -> dict[str, str]:
    """See ``MlflowRegistry.release_pages``."""
    address = re.sub("(?<=://)[^/]*@", "", connection.tracking_uri).rstrip("/")  # whoever opens it is asked anew
    if not address.startswith("http"):
        return {}
    experiment = connection.client.get_run(run_id).info.experiment_id
    children = connection.search_runs(experiment, f"{_tags({PARENT_TAG: run_id})} and attributes.status = 'FINISHED'")
    runs = quote(json.dumps(sorted(run.info.run_id for run in children), separators=(",", ":")))
    experiments = quote(json.dumps([experiment]))
    view = "workflowType=machine_learning"  # MLflow opens in its other mode, which shows no runs
    found = {"the release in MLflow": f"{address}/#/experiments/{experiment}/runs/{run_id}?{view}"}
    if children:
        found["its candidates compared"] = f"{address}/#/compare-runs?runs={runs}&experiments={experiments}&{view}"
    return found


def find(connection: Connection, digest_prefix: str, target: str | None) -> Evidence:
    """See ``Registry.find``."""
    check_digest_prefix(digest_prefix)
    tags = {KIND_TAG: "candidate"} | ({TARGET_TAG: target} if target is not None else {})
    condition = f"{_tags(tags)} and tags.`{DIGEST_TAG}` LIKE '{digest_prefix}%'"
    condition += " and attributes.status = 'FINISHED'"
    runs = connection.search_runs(connection.experiment(EXPERIMENT), condition)
    digests = {run.data.tags[DIGEST_TAG] for run in runs}
    if len(digests) != 1:
        found = ", ".join(sorted(digest[:16] for digest in digests)) or "none"
        raise BadInputError(_not_one(digest_prefix, target, found, several=len(digests) > 1))
    return read_record(connection, f"{runs[0].info.artifact_uri}/evidence.json", Evidence)


def companions(connection: Connection, run_id: str, evidence: Evidence, into: Path) -> dict[str, Path]:
    """See ``Registry.companions``; ``run_id`` is the candidate's run."""
    into.mkdir(parents=True, exist_ok=True)
    location = connection.client.get_run(run_id).info.artifact_uri
    stored = {file.path for file in connection.client.list_artifacts(run_id)}
    wanted = [artifact for artifact in evidence.attachments if artifact.name in stored]
    found = {artifact.name: connection.download(f"{location}/{artifact.name}", into) for artifact in wanted}
    check_companions(found, evidence)
    return found


def check_companions(files: Mapping[str, Path], evidence: Evidence) -> None:
    """Hold copies of what is kept beside ``evidence``, by name, against the digests that it names.

    Raises:
        TamperedError: a file's bytes differ; none of the files is left to be used.
    """
    for artifact in evidence.attachments:
        path = files.get(artifact.name)
        if path is not None and digest_of(path) != artifact.digest:
            for copy in files.values():
                copy.unlink(missing_ok=True)
            raise TamperedError(
                f"{artifact.name}, kept beside the evidence on {(evidence.digest or '')[:12]}, should hash to "
                f"{artifact.digest[:12]} and does not; do not use it; release the model again"
            )


def _not_one(digest_prefix: str, target: str | None, found: str, several: bool) -> str:
    where = f" on target {target}" if target is not None else ""
    advice = "give more digits" if several else "see `slipway candidates`"
    return f"digest {digest_prefix!r} should name one candidate{where}, found {found}; {advice}"


def read_record(connection: Connection, uri: str, kind: type[T]) -> T:
    """The record that an artifact file holds.

    Raises:
        InfrastructureError: another version of Slipway wrote it, and this one cannot read it.
    """
    return parsed_record(connection.read(uri), uri, kind)


def parsed_record(text: str, uri: str, kind: type[T]) -> T:
    """The record that was read from the artifact file ``uri``.

    Raises:
        InfrastructureError: another version of Slipway wrote it, and this one cannot read it.
    """
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise InfrastructureError(
            f"{uri} cannot be read by Slipway {slipway.__version__}; release the model again"
        ) from error


def check_engine_files(release: Release, engine_paths: Mapping[str, Path]) -> None:
    """Hash every engine file before anything is recorded.

    Raises:
        BadInputError: a candidate's file was not given.
        TamperedError: a file's bytes differ from the candidate's digest.
    """
    for digest in {evidence.digest for outcome in release.targets for evidence in outcome.candidates} - {None}:
        path = engine_paths.get(str(digest))
        if path is None:
            raise BadInputError(f"candidate {str(digest)[:12]} has no engine file among those given; build it again")
        if digest_of(path) != digest:
            raise TamperedError(f"engine file {path} should hash to {str(digest)[:12]} and does not; build it again")


def _record_candidate(
    connection: Connection,
    pyfunc_code: Path,
    release: Release,
    evidence: Evidence,
    engine_paths: Mapping[str, Path],
    parent: str,
    attached: Sequence[Path],
) -> str | None:
    """One child run; with an engine file also a LoggedModel, whose id is returned."""
    client, spec = connection.client, evidence.spec
    tags = {
        KIND_TAG: "candidate",
        MODEL_TAG: release.model.name,
        TARGET_TAG: spec.target,
        EVIDENCE_TAG: evidence_sha256(evidence),
        "slipway.verdict": evidence.decision.verdict.value,
        PARENT_TAG: parent,
        **({DIGEST_TAG: evidence.digest} if evidence.digest else {}),
    }
    params = params_of(evidence)
    experiment = connection.experiment(EXPERIMENT)
    name = f"{spec.variant}-{spec.engine}"
    with connection.run(experiment, f"{spec.target}: {spec}", tags) as run_id:
        for file in attached:
            client.log_artifact(run_id, str(file))
        client.log_text(run_id, canonical_json(evidence), "evidence.json")
        model_id: str | None = None
        if evidence.digest is not None:
            path, signature = engine_paths[evidence.digest], evidence.signature or release.model.signature
            model_id = connection.log_model(
                run_id,
                name,
                lambda directory, metadata: _save(pyfunc_code, path, signature, evidence, directory, metadata),
                tags={key: value for key, value in tags.items() if key != PARENT_TAG},
                params=params,
                model_type="engine",
            )
            client.set_tag(run_id, MODEL_ID_TAG, model_id)
        log_figures(connection, run_id, model_id, params, evidence)
    return model_id


def params_of(evidence: Evidence) -> dict[str, str]:
    """What a candidate is, as the parameters of its run."""
    spec = evidence.spec
    params = {"variant": spec.variant, "engine": spec.engine, "target": spec.target, "model_uri": evidence.model_uri}
    return params | ({"threads": str(evidence.timing.latency.threads)} if evidence.timing else {})


def log_figures(
    connection: Connection, run_id: str, model_id: str | None, params: Mapping[str, str], evidence: Evidence
) -> None:
    """Log the figures of ``evidence`` with the run and its logged model, bound to the data set by its md5."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param

    # What MetaDataset would store, without a DatasetSource class of our own: the data set is named by its md5.
    source = json.dumps({"md5": evidence.data_md5})
    dataset = Dataset(name=DATASET_NAME, digest=evidence.data_md5, source_type="dvc", source=source)
    context = InputTag(key="mlflow.data.context", value="evaluation")
    connection.client.log_inputs(run_id, [DatasetInput(dataset, [context])])
    connection.client.log_batch(
        run_id,
        metrics=_metrics(run_id, model_id, evidence),
        params=[Param(key, value) for key, value in params.items()],
    )


def _metrics(run_id: str, model_id: str | None, evidence: Evidence) -> list[Metric]:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    bound: dict[str, Any] = {"model_id": model_id, "dataset_name": DATASET_NAME, "dataset_digest": evidence.data_md5}
    return [
        Metric(name, float(value), now, step=0, run_id=run_id, **bound)
        for name, value in _figures(evidence).items()
        if value is not None
    ]


def _figures(evidence: Evidence) -> dict[str, float | None]:
    """All numbers by the name of their metric; None where one was not measured."""
    figures: dict[str, float | None] = {"size_bytes": evidence.size_bytes}
    if accuracy := evidence.accuracy:
        figures |= {"accuracy": accuracy.value, "drop": accuracy.drop, "drop_upper": accuracy.drop_upper}
    if parity := evidence.parity:
        figures |= {"parity_cosine": parity.cosine, "top1_agreement": parity.top1_agreement}
    if evidence.profile:
        figures["executed_share"] = executed(evidence.spec.variant, evidence.profile).share
    return figures | (_speed_figures(evidence.timing) if evidence.timing else {})


def _speed_figures(timing: Timing) -> dict[str, float | None]:
    latency, rates = timing.latency, timing.throughput_per_s
    figures: dict[str, float | None] = {
        "latency_p50_ms": latency.p50_ms,
        "latency_p90_ms": latency.p90_ms,
        "latency_p95_ms": latency.p95_ms,
        "latency_p99_ms": latency.p99_ms,
        "speedup": timing.speedup.value,
        "throughput_per_s": max(rates.values(), default=None),
        "load_seconds": timing.load_seconds,
        "first_inference_seconds": timing.first_inference_seconds,
        "peak_rss_bytes": timing.peak_rss_bytes,
    }
    figures |= {f"throughput_per_s_batch_{batch}": rate for batch, rate in rates.items()}
    if scenario := timing.scenario:
        figures |= {"loadgen_latency_ms": scenario.latency_ms, "loadgen_examples_per_s": scenario.examples_per_s}
    return figures


def _save(
    pyfunc_code: Path, engine: Path, signature: Signature, evidence: Evidence, directory: str, metadata: Model
) -> None:
    import mlflow.pyfunc

    with warnings.catch_warnings():
        # The signature is given, so no example is needed to infer one.
        warnings.filterwarnings("ignore", r".*An input example was not provided", UserWarning)
        mlflow.pyfunc.save_model(
            directory,
            python_model=str(pyfunc_code),
            artifacts={"engine": str(engine.resolve())},
            signature=mlflow_signature(signature),
            pip_requirements=[f"slipway[all]=={slipway.__version__}"],
            mlflow_model=metadata,
        )
    (Path(directory) / "evidence.json").write_text(canonical_json(evidence), encoding="utf-8")


def _recorded(connection: Connection, experiment: str, key: str) -> RecordedRelease | None:
    condition = _tags({KIND_TAG: "release", KEY_TAG: key}) + " and attributes.status = 'FINISHED'"
    runs = connection.search_runs(experiment, condition)
    if not runs:
        return None
    run_id = runs[0].info.run_id
    children = [run.data.tags for run in connection.search_runs(experiment, _tags({PARENT_TAG: run_id}))]
    model_ids = {tags[EVIDENCE_TAG]: tags[MODEL_ID_TAG] for tags in children if MODEL_ID_TAG in tags}
    return RecordedRelease(run_id=run_id, model_ids=model_ids)


def _end_abandoned(connection: Connection, experiment: str, model_name: str) -> None:
    """Set the runs that a killed process, or this one while the store was down, left open to KILLED."""
    condition = _tags({KIND_TAG: "release", MODEL_TAG: model_name}) + " and attributes.status = 'RUNNING'"
    for run in connection.search_runs(experiment, condition):
        age_seconds = time.time() - run.info.start_time / 1000
        owner = run.data.tags.get(OWNER_TAG, "")
        if age_seconds < ABANDONED_AFTER_SECONDS and owner != _owner() and _lives(owner):
            continue
        children = f"{_tags({PARENT_TAG: run.info.run_id})} and attributes.status = 'RUNNING'"
        for open_run in [*connection.search_runs(experiment, children), run]:
            connection.client.set_terminated(open_run.info.run_id, "KILLED")


def _owner() -> str:
    process = psutil.Process()
    return f"{socket.gethostname()} {os.getpid()} {process.create_time():.2f}"


def _lives(owner: str) -> bool:
    """Whether the process that opened a run still lives; of another host's processes nothing is known: yes."""
    host, _, process = owner.partition(" ")
    if host != socket.gethostname():
        return True
    pid, _, created = process.partition(" ")
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" == created
    except psutil.NoSuchProcess:
        return False


def _tags(tags: Mapping[str, str]) -> str:
    return " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
