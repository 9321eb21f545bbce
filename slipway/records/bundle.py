"""A published bundle: one engine file or directory in object storage, with what a device needs to check and run it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from slipway.records.base import Record
from slipway.records.source import Signature

MANIFEST_FILE = "manifest.json"
# Nothing that a shell, a browser or a file system reads as more than a name, and no way out of a directory.
PLAIN_NAME = r"[A-Za-z0-9_][A-Za-z0-9._+-]*"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
PlainName = Annotated[str, Field(pattern=f"^{PLAIN_NAME}$")]
PlainPath = Annotated[str, Field(pattern=f"^{PLAIN_NAME}(/{PLAIN_NAME})*$")]


class BundleFile(Record):
    """One file of a bundle; ``name`` is its path below the bundle's own folder."""

    name: PlainPath
    size_bytes: Annotated[int, Field(ge=0)]
    sha256: Sha256


class BundleManifest(Record):
    """What a bundle holds; it is written last, so that a bundle with a manifest is complete.

    ``digest`` is the engine's, as its evidence names it; ``engine_path`` is the engine file, or the folder of its
    files, in the bundle. ``version`` is that of the registered model ``name.target``.
    """

    name: PlainName
    target: PlainName
    version: Annotated[str, Field(pattern=r"^[0-9]+$")]
    digest: Sha256
    engine: str
    engine_version: str | None
    engine_path: PlainPath
    variant: str
    signature: Signature | None
    hardware_fingerprint: str
    source_model: str
    slipway_version: str
    files: tuple[BundleFile, ...]

    @property
    def size_bytes(self) -> int:
        """Size of all files that it names."""
        return sum(file.size_bytes for file in self.files)

    @property
    def engine_files(self) -> tuple[BundleFile, ...]:
        """The files that its digest is of."""
        own = f"{self.engine_path}/"
        return tuple(file for file in self.files if file.name == self.engine_path or file.name.startswith(own))
