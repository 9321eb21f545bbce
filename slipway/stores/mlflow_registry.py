"""The registry on MLflow: its tracking store, artifact store and model registry as one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from slipway.decisions.approval import Approval
from slipway.decisions.reconciliation import FinishedRelease
from slipway.errors import BadInputError, TamperedError
from slipway.records import Audit, Evidence, Release, RequestedRelease, Rollout, Signature
from slipway.stores import mlflow_audit_runs, mlflow_models, mlflow_releases, mlflow_rollouts
from slipway.stores.approvals import approval_tag, cleared_approvals
from slipway.stores.mlflow_border import at_border
from slipway.stores.mlflow_connection import Connection
from slipway.stores.mlmodel import load_mlmodel
from slipway.stores.objects import digest_of
from slipway.stores.registry import (
    CHALLENGER,
    CHAMPION,
    DECISION_TAG,
    DIGEST_TAG,
    EVIDENCE_TAG,
    PREVIOUS,
    Attachments,
    ModelVersionRef,
    RecordedRelease,
    RegisteredEngine,
    decision_tags,
    evidence_sha256,
    sha256_of,
    version_tags,
)

if TYPE_CHECKING:
    import torch
    from mlflow.entities.model_registry import ModelVersion


class MlflowRegistry:
    """``slipway.stores.registry.Registry`` on an MLflow store.

    ``pyfunc_code`` is the models-from-code file with which MLflow can load an engine by itself; ``artifact_root``
    is where a store without a server keeps its files (None: where the server says).
    """

    def __init__(self, tracking_uri: str, artifact_root: Path | None, pyfunc_code: Path) -> None:
        self.tracking_uri = tracking_uri
        self._connection = Connection(tracking_uri, artifact_root)
        self._pyfunc_code = pyfunc_code

    def check(self) -> None:
        """See ``Registry.check``."""
        self._connection.check()

    def user(self) -> str | None:
        """See ``Registry.user``."""
        return self._connection.user()

    @at_border
    def resolve(self, uri: str) -> ModelVersionRef:
        """See ``Registry.resolve``."""
        return mlflow_models.resolve(self._connection, uri)

    @at_border
    def download(self, ref: ModelVersionRef, into: Path) -> Path:
        """See ``Registry.download``."""
        return mlflow_models.download(self._connection, ref, into)

    @at_border
    def log_model(
        self, module: torch.nn.Module, signature: Signature, example: Mapping[str, npt.NDArray[np.generic]], name: str
    ) -> ModelVersionRef:
        """See ``Registry.log_model``."""
        return mlflow_models.log_model(self._connection, module, signature, example, name)

    @at_border
    def record_release(
        self,
        release: Release,
        engine_paths: Mapping[str, Path],
        files: Sequence[Path],
        attachments: Attachments = MappingProxyType({}),
    ) -> RecordedRelease:
        """See ``Registry.record_release``."""
        return mlflow_releases.record_release(
            self._connection, self._pyfunc_code, release, engine_paths, files, attachments
        )

    @at_border
    def candidates(self, model_name: str, target: str | None) -> list[Evidence]:
        """See ``Registry.candidates``."""
        return mlflow_releases.candidates(self._connection, model_name, target)

    @at_border
    def versions(self, model_name: str) -> list[str]:
        """See ``Registry.versions``."""
        return [str(found.version) for found in self._connection.versions(model_name) if found.status == "READY"]

    @at_border
    def released(self, model_name: str) -> list[FinishedRelease]:
        """See ``Registry.released``."""
        return mlflow_releases.released(self._connection, model_name)

    @at_border
    def link_release(self, run_id: str, address: str) -> None:
        """Let the page of the release ``run_id`` name the ``address`` of what made it, unless it names one already."""
        mlflow_releases.link(self._connection, run_id, address)

    @at_border
    def release_pages(self, run_id: str) -> dict[str, str]:
        """The addresses of the server's pages on the release ``run_id`` by title; none where there is no server."""
        return mlflow_releases.pages(self._connection, run_id)

    @at_border
    def find(self, digest_prefix: str, target: str | None = None) -> Evidence:
        """See ``Registry.find``."""
        return mlflow_releases.find(self._connection, digest_prefix, target)

    @at_border
    def register(self, name: str, release: RecordedRelease, evidence: Evidence) -> str:
        """See ``Registry.register``."""
        sha256 = evidence_sha256(evidence)
        if sha256 not in release.model_ids:
            raise BadInputError(
                f"release {release.run_id} recorded no engine file for {evidence.spec}; record it first"
            )
        if known := self._connection.versions(name, (EVIDENCE_TAG, sha256)):
            return str(known[0].version)
        client = self._connection.client
        model = client.get_logged_model(release.model_ids[sha256])
        version = self._connection.create_version(name, model.model_id, model.source_run_id, version_tags(evidence))
        # MLflow's page of candidates links to the version through this tag.
        client.set_logged_model_tags(
            model.model_id, {"mlflow.modelVersions": json.dumps([{"name": name, "version": version}])}
        )
        return version

    @at_border
    def version(self, name: str, version: str) -> RegisteredEngine:
        """See ``Registry.version``."""
        found = self._version(name, version)
        if EVIDENCE_TAG not in found.tags:
            raise BadInputError(f"models:/{name}/{version} was not registered by Slipway: it carries no evidence")
        uri = f"{self._location(found)}/evidence.json"
        text = self._connection.read(uri)
        # The bytes as they were written, not the record: a later Slipway's has fields that these lack.
        if sha256_of(text) != found.tags[EVIDENCE_TAG]:
            raise TamperedError(f"the evidence of models:/{name}/{version} was changed; release the model again")
        evidence = mlflow_releases.parsed_record(text, uri, Evidence)
        return RegisteredEngine(
            name=name,
            version=str(found.version),
            digest=found.tags[DIGEST_TAG],
            aliases=tuple(sorted(found.aliases)),
            tags=dict(found.tags),
            evidence=evidence,
        )

    @at_border
    def engine_path(self, name: str, version: str, into: Path) -> Path:
        """See ``Registry.engine_path``."""
        engine = self.version(name, version)
        location = self._location(self._version(name, version))
        flavors = load_mlmodel(self._connection.download(f"{location}/MLmodel", into).parent)["flavors"]
        path = self._connection.download(
            f"{location}/{flavors['python_function']['artifacts']['engine']['path']}", into
        )
        if digest_of(path) != engine.evidence.digest:
            raise TamperedError(
                f"the engine of models:/{name}/{version} should hash to {engine.digest[:12]} and does not; "
                "do not serve it; release the model again"
            )
        return path

    @at_border
    def companions(self, name: str, version: str, into: Path) -> dict[str, Path]:
        """See ``Registry.companions``."""
        evidence = self.version(name, version).evidence
        run_id = str(self._version(name, version).run_id)
        return mlflow_releases.companions(self._connection, run_id, evidence, into)

    @at_border
    def aliases(self, name: str) -> dict[str, str]:
        """See ``Registry.aliases``."""
        aliases = mlflow_models.aliases_of(self._connection, name)
        champion = aliases.get(CHAMPION)  # what names it as well says nothing, see _take_away
        return {one: of for one, of in aliases.items() if of != champion or one not in {CHALLENGER, PREVIOUS}}

    @at_border
    def champion(self, name: str) -> str | None:
        """See ``Registry.champion``."""
        return mlflow_models.aliases_if_any(self._connection, name).get(CHAMPION)

    @at_border
    def earlier_decision(self, name: str, digest: str) -> str | None:
        """See ``Registry.earlier_decision``."""
        versions = self._connection.versions(name, (DIGEST_TAG, digest))
        return next((found.tags[DECISION_TAG] for found in versions if DECISION_TAG in found.tags), None)

    @at_border
    def tag(self, name: str, version: str, key: str, value: str) -> None:
        """See ``Registry.tag``."""
        self._tag(name, version, {key: value})

    @at_border
    def approve(self, name: str, version: str, approval: Approval) -> None:
        """See ``Registry.approve``."""
        self._tag(name, version, dict([approval_tag(approval)]))

    @at_border
    def set_challenger(self, name: str, version: str) -> None:
        """See ``Registry.set_challenger``."""
        self._alias(name, CHALLENGER, version)

    @at_border
    def promote(self, name: str, version: str, approver: str | None, reason: str | None) -> None:
        """See ``Registry.promote``."""
        file = self._version(name, version).tags.get(DIGEST_TAG)
        aliases = mlflow_models.aliases_of(self._connection, name)
        self._tag(name, version, decision_tags("promoted", approver, reason))
        champion = aliases.get(CHAMPION)
        # An alias on the champion until now would say something again once another version is champion.
        over = {one for one in (CHALLENGER, PREVIOUS) if one in aliases and aliases[one] == champion}
        if champion is not None and self._version(name, champion).tags.get(DIGEST_TAG) != file:
            # Before the champion moves: from then on a rollback must know where to go.
            self._alias(name, PREVIOUS, champion)
            over.discard(PREVIOUS)
        self._alias(name, CHAMPION, version)
        if aliases.get(CHALLENGER) == version:
            over.add(CHALLENGER)
        for alias in over:
            self._take_away(name, alias, version)

    @at_border
    def reject(self, name: str, version: str, approver: str, reason: str) -> None:
        """See ``Registry.reject``."""
        self._refuse(name, version, decision_tags("rejected", approver, reason))

    @at_border
    def withdraw(self, name: str, version: str, approver: str, reason: str) -> None:
        """See ``Registry.withdraw``."""
        self._refuse(name, version, decision_tags("rolled back", approver, reason))

    @at_border
    def record_rollout(self, rollout: Rollout, files: Sequence[Path]) -> str:
        """See ``Registry.record_rollout``."""
        return mlflow_rollouts.record_rollout(self._connection, rollout, files)

    @at_border
    def record_audit(self, audit: Audit) -> str:
        """See ``Registry.record_audit``."""
        return mlflow_audit_runs.record_audit(self._connection, audit)

    @at_border
    def requested_release(self, audit: Audit) -> RequestedRelease | None:
        """See ``Registry.requested_release``."""
        return mlflow_audit_runs.requested_release(self._connection, audit)

    @at_border
    def rollback(self, name: str) -> RegisteredEngine:
        """See ``Registry.rollback``."""
        aliases = mlflow_models.aliases_of(self._connection, name)
        champion, previous = aliases.get(CHAMPION), aliases.get(PREVIOUS)
        if previous is None:
            raise BadInputError(f"{name} has no previous version to roll back to; champion is {champion or 'not set'}")
        # Equal when a promotion or rollback was cut short: then the previous version serves already.
        if champion is not None and champion != previous:
            kept = self._version(name, champion).tags
            self._tag(name, champion, decision_tags("rolled back", None, None) | cleared_approvals(kept))
        self._alias(name, CHAMPION, previous)
        self._take_away(name, PREVIOUS, previous)
        if champion is not None and aliases.get(CHALLENGER) == champion:
            self._take_away(name, CHALLENGER, previous)
        return self.version(name, previous)

    def _refuse(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        kept = self._version(name, version).tags
        self._tag(name, version, {**tags, **cleared_approvals(kept)})
        aliases = mlflow_models.aliases_of(self._connection, name)
        if aliases.get(CHALLENGER) == version:
            self._take_away(name, CHALLENGER, aliases.get(CHAMPION))

    def _tag(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            self._connection.client.set_model_version_tag(name, version, key, value)

    def _take_away(self, name: str, alias: str, champion: str | None) -> None:
        """Let ``alias`` say nothing: delete it, or for whom MLflow refuses that, let it name the champion as well.

        MLflow asks for MANAGE there, and for EDIT elsewhere. Without a champion it stays, on a version that is refused.
        """
        from mlflow.exceptions import MlflowException

        try:
            self._connection.client.delete_registered_model_alias(name, alias)
        except MlflowException as error:
            if error.error_code != "PERMISSION_DENIED":
                raise
            if champion is not None:
                self._alias(name, alias, champion)

    def _alias(self, name: str, alias: str, version: str) -> None:
        self._connection.client.set_registered_model_alias(name, alias, version)

    def _version(self, name: str, version: str) -> ModelVersion:
        ref = mlflow_models.resolve(self._connection, f"models:/{name}/{version}")
        return self._connection.client.get_model_version(ref.name, ref.version)

    def _location(self, version: ModelVersion) -> str:
        location = self._connection.client.get_model_version_download_uri(version.name, version.version)
        return str(location).rstrip("/")
