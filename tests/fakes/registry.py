"""A registry in memory, which passes the same contract suite as the one on MLflow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import yaml

from slipway.decisions.approval import Approval
from slipway.decisions.audit import LEARNT
from slipway.decisions.reconciliation import FinishedRelease
from slipway.errors import BadInputError
from slipway.records import Audit, Evidence, Release, RequestedRelease, Rollout, Signature, TensorSpec, Verdict
from slipway.stores.approvals import approval_tag, cleared_approvals
from slipway.stores.mlflow_models import check_example, weights_sha256
from slipway.stores.mlflow_releases import check_companions, check_engine_files
from slipway.stores.registry import (
    AUDIT_TAG,
    AUDITED_AT_TAG,
    CHALLENGER,
    CHAMPION,
    DECISION_TAG,
    DIGEST_TAG,
    PREVIOUS,
    ROLLOUT_RUN_TAG,
    Attachments,
    ModelVersionRef,
    RecordedRelease,
    RegisteredEngine,
    check_digest_prefix,
    decision_tags,
    evidence_sha256,
    parse_model_uri,
    release_key,
    version_tags,
)

if TYPE_CHECKING:
    import torch

Files = dict[str, bytes]


@dataclass
class Version:
    """What a version holds: the files of a model directory or an engine, and the evidence if it is an engine."""

    files: Files
    tags: dict[str, str] = field(default_factory=dict)
    evidence: Evidence | None = None


@dataclass
class RegisteredModel:
    """A name's versions, from 1 on, and its aliases."""

    versions: list[Version] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)


class FakeRegistry:
    """``slipway.stores.registry.Registry`` without a store."""

    def __init__(self) -> None:
        self.models: dict[str, RegisteredModel] = {}
        self.releases: dict[str, Release] = {}
        self.engines: dict[str, Files] = {}
        self.report_files: dict[str, list[str]] = {}
        self.rollouts: dict[str, Files] = {}
        self.attached: dict[str, Files] = {}
        self.audits: list[tuple[Audit, int]] = []  # each with how many releases there were before it
        self.authenticated: str | None = None

    def check(self) -> None:
        """Memory can always be reached."""

    def user(self) -> str | None:
        """See ``Registry.user``."""
        return self.authenticated

    def add_model(self, name: str, directory: Path) -> ModelVersionRef:
        """Register a model directory (with ``MLmodel``) made elsewhere."""
        return self._add(name, Version(_files(directory)))

    def resolve(self, uri: str) -> ModelVersionRef:
        """See ``Registry.resolve``."""
        name, version, alias = parse_model_uri(uri)
        model = self._model(name)
        if alias is not None:
            if alias not in model.aliases:
                raise BadInputError(f"{uri}: model {name!r} has no alias {alias!r}; it has {', '.join(model.aliases)}")
            version = model.aliases[alias]
        self._version(name, str(version))
        return ModelVersionRef(name=name, version=str(version), uri=f"models:/{name}/{version}")

    def download(self, ref: ModelVersionRef, into: Path) -> Path:
        """See ``Registry.download``."""
        return _write(self._version(ref.name, ref.version).files, into / "model")

    def log_model(
        self, module: torch.nn.Module, signature: Signature, example: Mapping[str, npt.NDArray[np.generic]], name: str
    ) -> ModelVersionRef:
        """See ``Registry.log_model``."""
        check_example(module, signature, example)
        tags = {"slipway.weights_sha256": weights_sha256(module)}
        for number, version in enumerate(self.models.get(name, RegisteredModel()).versions, start=1):
            if version.tags == tags:
                return self.resolve(f"models:/{name}/{number}")
        return self._add(name, Version(_model_directory(module, signature, example), tags))

    def record_release(
        self,
        release: Release,
        engine_paths: Mapping[str, Path],
        files: Sequence[Path],
        attachments: Attachments = MappingProxyType({}),
    ) -> RecordedRelease:
        """See ``Registry.record_release``."""
        key = release_key(release)
        if key not in self.releases:
            check_engine_files(release, engine_paths)
            self.releases[key] = release
            self.report_files[key] = [file.name for file in files]
            self.attached |= {
                sha256: {file.name: file.read_bytes() for file in attached} for sha256, attached in attachments.items()
            }
            self.engines |= {digest: _files(path) for digest, path in engine_paths.items()}
        found = [one for outcome in release.targets for one in outcome.candidates if one.digest is not None]
        return RecordedRelease(run_id=key, model_ids={evidence_sha256(one): f"m-{one.digest}" for one in found})

    def register(self, name: str, release: RecordedRelease, evidence: Evidence) -> str:
        """See ``Registry.register``."""
        if evidence_sha256(evidence) not in release.model_ids or evidence.digest is None:
            raise BadInputError(f"release {release.run_id} recorded no engine file for {evidence.spec}")
        for number, version in enumerate(self.models.get(name, RegisteredModel()).versions, start=1):
            if version.evidence == evidence:
                return str(number)
        return self._add(name, Version(self.engines[evidence.digest], version_tags(evidence), evidence)).version

    def version(self, name: str, version: str) -> RegisteredEngine:
        """See ``Registry.version``."""
        found = self._version(name, version)
        if found.evidence is None:
            raise BadInputError(f"models:/{name}/{version} was not registered by Slipway")
        aliases = self.models[name].aliases
        return RegisteredEngine(
            name=name,
            version=version,
            digest=str(found.evidence.digest),
            aliases=tuple(sorted(alias for alias, named in aliases.items() if named == version)),
            tags=dict(found.tags),
            evidence=found.evidence,
        )

    def engine_path(self, name: str, version: str, into: Path) -> Path:
        """See ``Registry.engine_path``."""
        return _write(self._version(name, version).files, into / "engine")

    def companions(self, name: str, version: str, into: Path) -> dict[str, Path]:
        """See ``Registry.companions``."""
        evidence = self.version(name, version).evidence
        kept = self.attached.get(evidence_sha256(evidence), {})
        into.mkdir(parents=True, exist_ok=True)
        found = {artifact.name: into / artifact.name for artifact in evidence.attachments if artifact.name in kept}
        for file_name, path in found.items():
            path.write_bytes(kept[file_name])
        check_companions(found, evidence)
        return found

    def aliases(self, name: str) -> dict[str, str]:
        """See ``Registry.aliases``."""
        return dict(self._model(name).aliases)

    def champion(self, name: str) -> str | None:
        """See ``Registry.champion``."""
        return self.aliases(name).get(CHAMPION) if name in self.models else None

    def earlier_decision(self, name: str, digest: str) -> str | None:
        """See ``Registry.earlier_decision``."""
        newest_first = reversed(self.models.get(name, RegisteredModel()).versions)
        found = (one.tags.get(DECISION_TAG) for one in newest_first if one.tags.get(DIGEST_TAG) == digest)
        return next(filter(None, found), None)

    def tag(self, name: str, version: str, key: str, value: str) -> None:
        """See ``Registry.tag``."""
        self._version(name, version).tags[key] = value

    def approve(self, name: str, version: str, approval: Approval) -> None:
        """See ``Registry.approve``."""
        self.tag(name, version, *approval_tag(approval))

    def set_challenger(self, name: str, version: str) -> None:
        """See ``Registry.set_challenger``."""
        self._version(name, version)
        self._model(name).aliases[CHALLENGER] = version

    def promote(self, name: str, version: str, approver: str | None, reason: str | None) -> None:
        """See ``Registry.promote``."""
        self._version(name, version).tags.update(decision_tags("promoted", approver, reason))
        aliases = self._model(name).aliases
        champion = aliases.get(CHAMPION, version)
        if self._file(name, champion) != self._file(name, version):
            aliases[PREVIOUS] = champion
        aliases[CHAMPION] = version
        if aliases.get(CHALLENGER) == version:
            del aliases[CHALLENGER]

    def reject(self, name: str, version: str, approver: str, reason: str) -> None:
        """See ``Registry.reject``."""
        self._refuse(name, version, decision_tags("rejected", approver, reason))

    def withdraw(self, name: str, version: str, approver: str, reason: str) -> None:
        """See ``Registry.withdraw``."""
        self._refuse(name, version, decision_tags("rolled back", approver, reason))

    def record_rollout(self, rollout: Rollout, files: Sequence[Path]) -> str:
        """See ``Registry.record_rollout``."""
        self.tag(rollout.name, rollout.challenger.version, ROLLOUT_RUN_TAG, rollout.rollout_id)
        self.rollouts[rollout.rollout_id] = {file.name: file.read_bytes() for file in files}
        return rollout.rollout_id

    def record_audit(self, audit: Audit) -> str:
        """See ``Registry.record_audit``."""
        self.audits.append((audit, len(self.releases)))
        if audit.version is not None:
            self.tag(audit.name, audit.version, AUDITED_AT_TAG, audit.at.isoformat(timespec="seconds"))
            self.tag(audit.name, audit.version, AUDIT_TAG, audit.decision.verdict.value)
        return f"audit-{len(self.audits)}"

    def requested_release(self, audit: Audit) -> RequestedRelease | None:
        """See ``Registry.requested_release``."""
        asked = [(one, n) for one, n in self.audits if audit.finding and one.finding == audit.finding and one.request]
        if not asked or audit.recorded is None:
            return None
        (first, before), (last, _), target = asked[0], asked[-1], audit.name.rpartition(".")[2]
        since = [one for one in list(self.releases.items())[before:] if one[1].model.uri == audit.recorded.model_uri]
        outcomes = [(outcome, key) for key, one in reversed(since) for outcome in one.targets]
        learnt = [(o, key) for o, key in outcomes if o.target == target and o.decision.verdict in LEARNT]
        verdict, run_id = (learnt[0][0].decision.verdict, learnt[0][1]) if learnt else (None, None)
        return RequestedRelease(first_asked=first.at, last_asked=last.at, ended=verdict, run_id=run_id)

    def rollback(self, name: str) -> RegisteredEngine:
        """See ``Registry.rollback``."""
        aliases = self._model(name).aliases
        if PREVIOUS not in aliases:
            raise BadInputError(f"{name} has no previous version to roll back to")
        if aliases[CHAMPION] != aliases[PREVIOUS]:
            tags = self._version(name, aliases[CHAMPION]).tags
            tags.update(decision_tags("rolled back", None, None) | cleared_approvals(tags))
        aliases[CHAMPION] = aliases.pop(PREVIOUS)
        return self.version(name, aliases[CHAMPION])

    def candidates(self, model_name: str, target: str | None) -> list[Evidence]:
        """See ``Registry.candidates``."""
        newest_first = [one for one in reversed(self.releases.values()) if one.model.name == model_name]
        outcomes = [outcome for one in newest_first for outcome in one.targets if target in {None, outcome.target}]
        return [evidence for outcome in outcomes for evidence in outcome.candidates]

    def versions(self, model_name: str) -> list[str]:
        """See ``Registry.versions``."""
        count = len(self.models.get(model_name, RegisteredModel()).versions)
        return [str(number) for number in range(count, 0, -1)]

    def released(self, model_name: str) -> list[FinishedRelease]:
        """See ``Registry.released``."""
        newest_first = [one for one in reversed(self.releases.values()) if one.model.name == model_name]
        ended = [one for one in newest_first if all(o.decision.verdict is not Verdict.ERROR for o in one.targets)]
        return [FinishedRelease(one.model.version, one.data_md5) for one in ended]

    def find(self, digest_prefix: str, target: str | None = None) -> Evidence:
        """See ``Registry.find``."""
        check_digest_prefix(digest_prefix)
        names = {release.model.name for release in self.releases.values()}
        everything = [evidence for name in names for evidence in self.candidates(name, target)]
        found = [one for one in everything if (one.digest or "").startswith(digest_prefix)]
        if len({one.digest for one in found}) != 1:
            raise BadInputError(f"digest {digest_prefix!r} should name one candidate, found {len(found)}")
        return found[0]

    def _add(self, name: str, version: Version) -> ModelVersionRef:
        versions = self.models.setdefault(name, RegisteredModel()).versions
        versions.append(version)
        return self.resolve(f"models:/{name}/{len(versions)}")

    def _refuse(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        kept = self._version(name, version).tags
        kept.update({**tags, **cleared_approvals(kept)})
        aliases = self._model(name).aliases
        if aliases.get(CHALLENGER) == version:
            del aliases[CHALLENGER]

    def _file(self, name: str, version: str) -> str | None:
        return self._version(name, version).tags.get(DIGEST_TAG)

    def _model(self, name: str) -> RegisteredModel:
        if name not in self.models:
            raise BadInputError(f"no registered model {name!r}; there are {', '.join(self.models) or 'none'}")
        return self.models[name]

    def _version(self, name: str, version: str) -> Version:
        versions = self._model(name).versions
        if not 1 <= int(version) <= len(versions):
            raise BadInputError(f"model {name!r} has no version {version}; it has {len(versions)}")
        return versions[int(version) - 1]


def _files(path: Path) -> Files:
    """Every file below ``path`` by its relative path; a single file by its own name, marked as such by a slash."""
    if path.is_file():
        return {f"/{path.name}": path.read_bytes()}
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def _write(files: Files, into: Path) -> Path:
    for name, content in files.items():
        file = into / name.removeprefix("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    single = [name for name in files if name.startswith("/")]
    return into / single[0].removeprefix("/") if single else into


def _model_directory(
    module: torch.nn.Module, signature: Signature, example: Mapping[str, npt.NDArray[np.generic]]
) -> Files:
    """What mlflow.pytorch would log: ``MLmodel`` and ``data/model.pt2``."""
    import io

    import torch

    arrays = tuple(torch.from_numpy(np.asarray(example[spec.name])) for spec in signature.inputs)
    dynamic = tuple({0: torch.export.Dim.AUTO} if spec.shape[0] == -1 else None for spec in signature.inputs)
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(module, arrays, dynamic_shapes=dynamic), buffer)
    sides = {"inputs": signature.inputs, "outputs": signature.outputs}
    content = {
        "flavors": {"pytorch": {"model_data": "data"}},
        "signature": {side: json.dumps([_spelt(spec) for spec in specs]) for side, specs in sides.items()},
    }
    return {"MLmodel": yaml.safe_dump(content).encode(), "data/model.pt2": buffer.getvalue()}


def _spelt(spec: TensorSpec) -> dict[str, object]:
    return {"name": spec.name, "type": "tensor", "tensor-spec": {"dtype": spec.dtype, "shape": list(spec.shape)}}
