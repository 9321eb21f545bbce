"""Pack a registered engine for a server that is not Slipway's own."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from slipway.errors import BadInputError
from slipway.stores.registry import RegisteredEngine, Registry, version_with

EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that zip knows: the same engine gives the same archive


def publish_mar(registry: Registry, name: str, alias: str, handler: Path, out: Path) -> Path:
    """Write ``out/NAME.mar``, from which TorchServe serves the engine that bears ``alias``, and return its path.

    The archive holds the engine file, its evidence and ``handler``. Its format is that of torch-model-archiver 0.12,
    which is not used itself: it empties a directory of the model's name in the temporary one, whatever is in it.

    Raises:
        BadInputError: no version bears the alias, or ``out`` cannot be written.
        TamperedError: the engine file's bytes differ from the evidence's digest.
    """
    engine = registry.version(name, version_with(registry, name, alias))
    archive = out / f"{name}.mar"
    try:
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=out, prefix=".publish-") as scratch:
            path = registry.engine_path(name, engine.version, Path(scratch))
            whole = Path(scratch) / archive.name
            _write(whole, engine, path, handler)
            whole.replace(archive)  # nobody ever sees half an archive
    except OSError as error:
        raise BadInputError(f"cannot write {archive}: {error.strerror}; give --out another directory") from error
    return archive


def _write(archive: Path, engine: RegisteredEngine, path: Path, handler: Path) -> None:
    manifest = {
        "runtime": "python",
        "model": {"modelName": engine.name, "modelVersion": f"{engine.version}.0", "handler": handler.name},
        "archiverVersion": "0.12.0",
    }
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        _add(packed, "MAR-INF/MANIFEST.json", json.dumps(manifest, indent=2).encode())
        _add(packed, handler.name, handler.read_bytes())
        _add(packed, "evidence.json", engine.evidence.model_dump_json().encode())
        for file, inside in _files(path):
            _add(packed, f"served/{inside}", file.read_bytes())


def _files(path: Path) -> Iterator[tuple[Path, str]]:
    """The engine's files, each with its place inside the archive's folder of engines."""
    if path.is_file():
        yield path, path.name
    for folder, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            file = Path(folder) / name
            yield file, file.relative_to(path.parent).as_posix()


def _add(packed: zipfile.ZipFile, name: str, content: bytes) -> None:
    packed.writestr(zipfile.ZipInfo(name, EPOCH), content, zipfile.ZIP_DEFLATED)
