"""Record a release in the registry, and register the chosen engine of each target as a version."""

from __future__ import annotations

from slipway.records import Artifact, Recorded, Release
from slipway.stores.objects import ObjectStore
from slipway.stores.registry import Registry


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
    recorded = registry.record_release(
        release,
        {artifact.digest: objects.path(artifact) for artifact in engines},
        [objects.path(artifact) for artifact in report],
    )
    versions = {}
    for target in release.targets:
        for evidence in target.candidates:
            if evidence.digest is not None and evidence.digest == target.chosen:
                name = f"{release.model.name}.{target.target}"
                versions[target.target] = registry.register(name, recorded, evidence)
    return Recorded(run_id=recorded.run_id, versions=versions)
