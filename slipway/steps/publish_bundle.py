"""Publish a registered engine as a bundle in S3, from where devices fetch it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import slipway
from slipway.errors import BadInputError, InfrastructureError, SlipwayError
from slipway.measure.example import EXAMPLE_FILE
from slipway.measure.input_summary import INPUTS_FILE
from slipway.records.bundle import PLAIN_NAME, BundleFile, BundleManifest
from slipway.steps.progress import Event, meter, tell
from slipway.stores.objects import ObjectStore, digest_of
from slipway.stores.registry import RegisteredEngine, Registry, canonical_json, version_with
from slipway.stores.s3_bundles import BundleStore

ENGINE_FOLDER, EVIDENCE_FILE = "engine", "evidence.json"
COMPANIONS = (EXAMPLE_FILE, INPUTS_FILE)


class Published(NamedTuple):
    """A complete bundle; ``written`` names the files that were not there before."""

    uri: str
    manifest: BundleManifest
    written: tuple[str, ...]


def publish_bundle(
    registry: Registry, objects: ObjectStore, name: str, target: str, alias: str, store: BundleStore
) -> Published:
    """Publish the engine that bears ``alias``; a publication that was cut short is gone on with.

    Of an engine that another version was published with, that bundle stays as it is.

    Raises:
        BadInputError: no version bears the alias, or a name cannot be part of a key.
        TamperedError: the engine's bytes differ from the evidence's digest, or other bytes are there already.
        InfrastructureError: S3 or the registry does not answer, or this host's disk is full.
    """
    store.require_plain(name, target)
    store.check()  # before anything is copied
    registered = f"{name}.{target}"
    engine = registry.version(registered, version_with(registry, registered, alias))
    try:
        with objects.new_dir() as scratch:
            path = registry.engine_path(registered, engine.version, scratch / "engine")
            files = dict(_engine_files(path))
            files |= _beside(registry, engine, scratch)
            manifest = _manifest(engine, name, target, f"{ENGINE_FOLDER}/{path.name}", files)
            agreed, written = _told(f"{registered} {engine.digest[:12]}", manifest, files, store)
    except SlipwayError:
        raise
    except OSError as error:
        raise InfrastructureError(
            f"cannot copy {registered} version {engine.version} to {objects.root}: {error.strerror}; make room there, "
            "and publish again: what is in S3 by now is gone on with"
        ) from error
    return Published(store.uri(name, target, engine.digest), agreed, written)


def _told(
    line: str, manifest: BundleManifest, files: dict[str, Path], store: BundleStore
) -> tuple[BundleManifest, tuple[str, ...]]:
    """Publish, and tell how far that is."""
    shown, done_bytes = meter(line, "publish"), 0

    def sent(more_bytes: int) -> None:
        nonlocal done_bytes
        done_bytes += more_bytes
        shown(min(done_bytes / max(manifest.size_bytes, 1), 1.0))

    tell(Event(line, "publish", "running", f"{manifest.size_bytes / 1e6:.1f} MB"))
    agreed, written = store.publish(manifest, files, sent)
    tell(Event(line, "publish", "done" if written else "cached", f"{len(written)} files written"))
    return agreed, written


def _engine_files(path: Path) -> Iterator[tuple[str, Path]]:
    """The engine's files by their names in the bundle.

    Raises:
        BadInputError: a name is none for a key.
    """
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_dir():
            continue
        inside = file.relative_to(path.parent)
        if not all(re.fullmatch(PLAIN_NAME, part) for part in inside.parts):
            raise BadInputError(
                f"engine file {inside.as_posix()!r} cannot be published: a name may hold letters, digits and . _ + - "
                "alone; release the model again"
            )
        yield f"{ENGINE_FOLDER}/{inside.as_posix()}", file


def _beside(registry: Registry, engine: RegisteredEngine, scratch: Path) -> dict[str, Path]:
    evidence = scratch / EVIDENCE_FILE
    evidence.write_text(canonical_json(engine.evidence), encoding="utf-8")
    kept = registry.companions(engine.name, engine.version, scratch / "beside")
    return {EVIDENCE_FILE: evidence} | {one: kept[one] for one in COMPANIONS if one in kept}


def _manifest(
    engine: RegisteredEngine, name: str, target: str, engine_path: str, files: dict[str, Path]
) -> BundleManifest:
    evidence = engine.evidence
    listed = (BundleFile(name=of, size_bytes=at.stat().st_size, sha256=digest_of(at)) for of, at in files.items())
    return BundleManifest(
        name=name,
        target=target,
        version=engine.version,
        digest=engine.digest,
        engine=evidence.spec.engine,
        engine_version=evidence.engine_version,
        engine_path=engine_path,
        variant=evidence.spec.variant,
        signature=evidence.signature,
        hardware_fingerprint=evidence.hardware.fingerprint,
        source_model=evidence.model_uri,
        slipway_version=slipway.__version__,
        files=tuple(listed),
    )
