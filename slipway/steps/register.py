"""Record a release in the registry, and register the chosen engine of each target as a version."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from slipway.records import Artifact, Evidence, Recorded, Release
from slipway.reports.profiles import profile_table
from slipway.stores.objects import ObjectStore
from slipway.stores.registry import Registry, evidence_sha256


def register(
    registry: Registry,
    objects: ObjectStore,
    release: Release,
    engines: tuple[Artifact, ...],
    report: tuple[Artifact, ...],
) -> Recorded:
    """Record every candidate with its evidence, then register the chosen ones; doing it again changes nothing.

    A version appears only after its evidence is complete, in one call, so that nobody ever sees one without the other.
    """
    with objects.new_dir() as folder:
        evidences = (evidence for target in release.targets for evidence in target.candidates)
        recorded = registry.record_release(
            release,
            {artifact.digest: objects.path(artifact) for artifact in engines},
            [objects.path(artifact) for artifact in report],
            _attachments(objects, folder, evidences),
        )
    versions = {}
    for target in release.targets:
        for evidence in target.candidates:
            if evidence.digest is not None and evidence.digest == target.chosen:
                name = f"{release.model.name}.{target.target}"
                versions[target.target] = registry.register(name, recorded, evidence)
    return Recorded(run_id=recorded.run_id, versions=versions)


def _attachments(objects: ObjectStore, folder: Path, evidences: Iterable[Evidence]) -> Mapping[str, list[Path]]:
    """What is kept beside each candidate's evidence: what it names, and its profile as a table."""
    attached = {}
    for evidence in evidences:
        key = evidence_sha256(evidence)
        attached[key] = [objects.path(artifact) for artifact in evidence.attachments]
        if evidence.profile is not None:
            table = folder / key / "profile.csv"
            table.parent.mkdir(exist_ok=True)
            table.write_text(profile_table(evidence.profile), encoding="utf-8")
            attached[key].append(table)
    return attached
