"""Bundles to publish, and a client that counts what it is asked and can be cut off."""

from __future__ import annotations

import hashlib
import random
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slipway.records.bundle import BundleFile, BundleManifest
from slipway.stores.objects import digest_of
from tests.fakes.evidence import SIGNATURE

MIB = 1 << 20


class CutOffError(Exception):
    """The publisher's process ends here."""


class Watched:
    """``client``, which counts its calls by operation; ``before`` is called before each, and may raise."""

    def __init__(self, client: Any, before: Callable[[str, int], None] = lambda operation, number: None) -> None:
        self._client = client
        self._before = before
        self._lock = threading.Lock()
        self.calls: Counter[str] = Counter()
        self.order: list[str] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not callable(found) or name in {"get_paginator", "generate_presigned_url"}:
            return found

        def call(*args: Any, **named: Any) -> Any:
            with self._lock:
                self.calls[name] += 1
                self.order.append(f"{name} {named.get('Key', '')}".rstrip())
                self._before(name, self.calls[name])
            return found(*args, **named)

        return call


def cut_off_before(operation: str, number: int) -> Callable[[str, int], None]:
    """Let the publisher end before its ``number``-th call of ``operation``."""

    def before(asked: str, count: int) -> None:
        if asked == operation and count >= number:
            raise CutOffError

    return before


def material(folder: Path, size_bytes: int = 1000, seed: int = 0) -> tuple[BundleManifest, dict[str, Path]]:
    """A bundle of one engine file with ``size_bytes`` random bytes, and its evidence."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"engine/model.onnx": folder / "model.onnx", "evidence.json": folder / "evidence.json"}
    files["engine/model.onnx"].write_bytes(random.Random(seed).randbytes(size_bytes))
    files["evidence.json"].write_text(f'{{"seed": {seed}}}', encoding="utf-8")
    return manifest_of(files), files


def manifest_of(files: dict[str, Path], engine: str = "engine/model.onnx", **changes: Any) -> BundleManifest:
    """What tells of ``files``, or what ``changes`` make of it."""
    listed = tuple(
        BundleFile(name=name, size_bytes=path.stat().st_size, sha256=digest_of(path)) for name, path in files.items()
    )
    fields: dict[str, Any] = {
        "name": "digits",
        "target": "x86",
        "version": "1",
        "digest": digest_of(files[engine]) if engine in files else hashlib.sha256(engine.encode()).hexdigest(),
        "engine": "onnxruntime",
        "engine_version": "1.0",
        "engine_path": engine,
        "variant": "fp32",
        "signature": SIGNATURE,
        "hardware_fingerprint": "f" * 64,
        "source_model": "models:/digits/1",
        "slipway_version": "0.1.0",
        "files": listed,
    }
    return BundleManifest(**(fields | changes))


def ignored(_: int) -> None:
    """Nobody wants to know how far it is."""
