"""What a model registry does for Slipway: source models in, evidence and engines out, aliases that say what serves."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from slipway.decisions.approval import Approval
from slipway.decisions.reconciliation import FinishedRelease
from slipway.errors import BadInputError
from slipway.records import Audit, Evidence, Record, Release, RequestedRelease, Rollout, Signature

if TYPE_CHECKING:
    import torch

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
EVIDENCE_TAG = "slipway.evidence_sha256"
DIGEST_TAG = "slipway.digest"
DECISION_TAG = "slipway.decision"
APPROVER_TAG, REASON_TAG, DECIDED_AT_TAG = "slipway.approver", "slipway.reason", "slipway.decided_at"
ROLLOUT_RUN_TAG = "slipway.rollout_run"
AUDIT_TAG, AUDITED_AT_TAG = "slipway.audit", "slipway.audited_at"

Attachments: TypeAlias = Mapping[str, Sequence[Path]]


class ModelVersionRef(Record):
    """A model version that exists; ``uri`` is ``models:/NAME/VERSION``, never an alias, which could move."""

    name: str
    version: str
    uri: str


class RecordedRelease(Record):
    """A release in the registry: its run, and the logged model of each engine file by ``evidence_sha256``.

    Not by engine digest: two targets may share the bytes and differ in everything measured.
    """

    run_id: str
    model_ids: dict[str, str]


class RegisteredEngine(Record):
    """A version of a registered model ``NAME.TARGET``: one engine file and the evidence it was registered with."""

    name: str
    version: str
    digest: str
    aliases: tuple[str, ...]
    tags: dict[str, str]
    evidence: Evidence


class Registry(Protocol):
    """The registry's operations; each raises InfrastructureError when the store cannot be reached."""

    def check(self) -> None:
        """Find out within seconds whether the store can be reached."""
        ...

    def user(self) -> str | None:
        """The name by which the store has authenticated whoever asks; None where it asks nobody who they are.

        Raises:
            BadInputError: it does not accept the name and the password.
        """
        ...

    def resolve(self, uri: str) -> ModelVersionRef:
        """The version that ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS`` names now.

        Raises:
            BadInputError: malformed or not there; what exists is told.
        """
        ...

    def download(self, ref: ModelVersionRef, into: Path) -> Path:
        """Copy the version's logged model directory (with ``MLmodel``) into ``into``; return where it lies."""
        ...

    def log_model(
        self, module: torch.nn.Module, signature: Signature, example: Mapping[str, npt.NDArray[np.generic]], name: str
    ) -> ModelVersionRef:
        """Register a source model in the pt2 format; the same weights give the version that holds them already.

        ``example`` holds the inputs by name with a batch of at least 2: a batch of 1 would be exported as fixed.

        Raises:
            BadInputError: the module is in training mode, or the example does not fit.
        """
        ...

    def record_release(
        self,
        release: Release,
        engine_paths: Mapping[str, Path],
        files: Sequence[Path],
        attachments: Attachments = MappingProxyType({}),
    ) -> RecordedRelease:
        """Record all evidence, every engine file (``engine_paths`` by digest), and the report's ``files``.

        ``attachments`` are kept beside a candidate's evidence, by its ``evidence_sha256``: profiles, traces, scores.
        The same release recorded again returns the earlier record.

        Raises:
            BadInputError: an engine file is missing from ``engine_paths``.
            TamperedError: an engine file's bytes differ from its digest.
        """
        ...

    def register(self, name: str, release: RecordedRelease, evidence: Evidence) -> str:
        """Make the candidate a version of ``name``, with its tags from the first moment; return the version.

        The same evidence registered again returns the earlier version.

        Raises:
            BadInputError: the release recorded no engine file for this evidence.
        """
        ...

    def version(self, name: str, version: str) -> RegisteredEngine:
        """A registered engine with the evidence it was registered with.

        Raises:
            BadInputError: it does not exist, or was not registered by Slipway.
            TamperedError: the stored evidence differs from the one that was registered.
        """
        ...

    def engine_path(self, name: str, version: str, into: Path) -> Path:
        """Copy the engine file (or directory) into ``into``.

        Raises:
            TamperedError: its bytes differ from the evidence's digest.
        """
        ...

    def companions(self, name: str, version: str, into: Path) -> dict[str, Path]:
        """Copy the files kept beside the version's evidence into ``into``; return them by file name.

        They are those that the evidence names with their digests; one that is no longer stored is left out.

        Raises:
            TamperedError: a file's bytes differ from the digest that the evidence names.
        """
        ...

    def aliases(self, name: str) -> dict[str, str]:
        """Version by alias.

        Raises:
            BadInputError: there is no such registered model.
        """
        ...

    def champion(self, name: str) -> str | None:
        """The version that serves; None where none does, or nothing is registered under ``name`` yet."""
        ...

    def earlier_decision(self, name: str, digest: str) -> str | None:
        """The decision tag of the newest version of ``name`` that has one and this engine file.

        A file that is measured again becomes another version, and stays the file that was decided on.
        """
        ...

    def tag(self, name: str, version: str, key: str, value: str) -> None:
        """Set a tag of a version."""
        ...

    def approve(self, name: str, version: str, approval: Approval) -> None:
        """Keep a person's approval with the version, in place of an earlier one of that person."""
        ...

    def set_challenger(self, name: str, version: str) -> None:
        """Let ``challenger`` name the version."""
        ...

    def promote(self, name: str, version: str, approver: str | None, reason: str | None) -> None:
        """Let ``champion`` name the version, and ``previous`` the champion until now; repeating it is harmless.

        Of two versions with the same engine file the former never becomes ``previous``: there would be no way back.
        """
        ...

    def reject(self, name: str, version: str, approver: str, reason: str) -> None:
        """Tag the version as rejected, clear its approvals, let it be challenger no more; repeating is harmless."""
        ...

    def withdraw(self, name: str, version: str, approver: str, reason: str) -> None:
        """Tag the version as rolled back, clear its approvals, let it be challenger no more; repeating is harmless."""
        ...

    def record_rollout(self, rollout: Rollout, files: Sequence[Path]) -> str:
        """Keep the ``files`` about an ended rollout in a run that the challenger's version links to; return its id.

        The same rollout recorded again takes the run that it has.
        """
        ...

    def record_audit(self, audit: Audit) -> str:
        """Keep what an audit found in a run, and tell verdict and time on the version that it looked at; the run's id.

        No alias is moved.
        """
        ...

    def requested_release(self, audit: Audit) -> RequestedRelease | None:
        """What came of the releases that recorded audits with the same finding asked for; None if none has asked."""
        ...

    def rollback(self, name: str) -> RegisteredEngine:
        """Let ``champion`` name the previous version again; return it. The version left is tagged as rolled back.

        Raises:
            BadInputError: there is no previous version.
        """
        ...

    def candidates(self, model_name: str, target: str | None) -> list[Evidence]:
        """All evidence on a model's candidates, the newest release first."""
        ...

    def versions(self, model_name: str) -> list[str]:
        """The versions of a registered model that are ready, the newest first; none where there is no such model."""
        ...

    def released(self, model_name: str) -> list[FinishedRelease]:
        """The releases of a model that came to their end, the newest first; not those with an ERROR on a target."""
        ...

    def find(self, digest_prefix: str, target: str | None = None) -> Evidence:
        """The newest evidence on the one file whose digest starts so; several targets may share it: on ``target``.

        Raises:
            BadInputError: no candidate does, or several do.
        """
        ...


def canonical_json(record: Record) -> str:
    """The record as JSON with sorted keys, so that equal records give equal bytes."""
    return json.dumps(record.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def evidence_sha256(evidence: Evidence) -> str:
    """The sha256 of the evidence's canonical JSON."""
    return sha256_of(canonical_json(evidence))


def sha256_of(text: str) -> str:
    """The sha256 of a text as it is written to a file."""
    return hashlib.sha256(text.encode()).hexdigest()


def release_key(release: Release) -> str:
    """The sha256 of everything in the release: equal for, and only for, the same outcome."""
    return sha256_of(canonical_json(release))


def version_tags(evidence: Evidence) -> dict[str, str]:
    """The tags with which an engine is registered."""
    return {
        DIGEST_TAG: evidence.digest or "",
        "slipway.verdict": evidence.decision.verdict.value,
        "slipway.source_model": evidence.model_uri,
        "slipway.data_md5": evidence.data_md5,
        "slipway.model_sha256": evidence.model_digest,
        "slipway.code_revision": evidence.code_revision,
        EVIDENCE_TAG: evidence_sha256(evidence),
    }


def decision_tags(decision: str, approver: str | None, reason: str | None) -> dict[str, str]:
    """The tags that tell who decided what about a version, why, and that it was now."""
    tags = {DECISION_TAG: decision, APPROVER_TAG: approver, REASON_TAG: reason, DECIDED_AT_TAG: utc_now().isoformat()}
    return {key: value for key, value in tags.items() if value is not None}


def utc_now() -> datetime:
    """The time, for a tag."""
    return datetime.now(UTC)


def parse_model_uri(uri: str) -> tuple[str, str | None, str | None]:
    """Name, version and alias of ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``; one of the last two is None.

    Raises:
        BadInputError: the URI has neither form.
    """
    match = re.fullmatch(r"models:/([^/@:'\"]+)(?:/(\d+)|@([^/@]+))", uri)
    if match is None:
        raise BadInputError(f"model URI {uri!r} is malformed; give models:/NAME/VERSION or models:/NAME@ALIAS")
    return match[1], match[2], match[3]


def version_with(registry: Registry, name: str, alias: str) -> str:
    """The version of the registered model ``name`` that bears ``alias``.

    Raises:
        BadInputError: none does, or there is no such model; the aliases that there are are told.
    """
    aliases = registry.aliases(name)
    if alias not in aliases:
        known = ", ".join(f"{one} (version {version})" for one, version in aliases.items()) or "none"
        raise BadInputError(f"{name} has no {alias}; aliases: {known}")
    return aliases[alias]


def check_digest_prefix(prefix: str) -> None:
    """Refuse what cannot be the start of a sha256.

    Raises:
        BadInputError: it is shorter than 4 characters or not lower-case hexadecimal.
    """
    if not re.fullmatch("[0-9a-f]{4,64}", prefix):
        raise BadInputError(f"digest {prefix!r} is not 4 to 64 lower-case hexadecimal digits; see `slipway candidates`")
