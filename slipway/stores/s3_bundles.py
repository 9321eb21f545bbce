"""Bundles in S3: ``PREFIX/NAME/TARGET/DIGEST/`` with files and, last of all, a manifest that says they are complete."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from pydantic import ValidationError

import slipway
from slipway.errors import BadInputError, InfrastructureError, TamperedError
from slipway.records.bundle import MANIFEST_FILE, PLAIN_NAME, BundleFile, BundleManifest
from slipway.stores.registry import canonical_json
from slipway.stores.s3_connection import MISSING_CODES, S3Place, check_bucket, code_of, now_there, s3_border
from slipway.stores.s3_uploads import PartSizes, Sent, Upload, Uploader

MOST_LINK_SECONDS = 7 * 24 * 3600  # what the signature allows
DELETED_AT_ONCE = 1000
ONE_VERSIONS = ("version", "slipway_version")  # a file that is measured again becomes another version


class StoredBundle(NamedTuple):
    """What lies below one digest; ``manifest`` is None where the bundle is not complete, or no more.

    ``age_seconds`` is that of its newest object, by the server's clock.
    """

    name: str
    target: str
    digest: str
    keys: tuple[str, ...]
    size_bytes: int
    age_seconds: float
    manifest: BundleManifest | None


class Link(NamedTuple):
    """A file of a bundle, and the address where anybody may fetch it for a time."""

    file: BundleFile
    url: str


class BundleStore:
    """The bundles of one place in S3; every operation raises what `s3_border` and `check_bucket` raise.

    ``journal`` is where this host notes the uploads that it has begun.
    """

    def __init__(self, client: Any, place: S3Place, journal: Path, sizes: PartSizes | None = None) -> None:
        self.place = place
        self._client = client
        self._uploader = Uploader(client, place.bucket, journal, sizes)

    def check(self) -> None:
        """Find out whether bucket and keys are right."""
        check_bucket(self._client, self.place.bucket)

    def require_plain(self, name: str, target: str) -> None:
        """Refuse a name or target that cannot be part of a key.

        Raises:
            BadInputError: one holds more than letters, digits and ``. _ + -``.
        """
        self._folder(name, target, "")

    def uri(self, name: str, target: str, digest: str) -> str:
        """``s3://BUCKET/PREFIX/NAME/TARGET/DIGEST/``."""
        return f"s3://{self.place.bucket}/{self._folder(name, target, digest)}"

    def publish(
        self, manifest: BundleManifest, files: Mapping[str, Path], sent: Sent
    ) -> tuple[BundleManifest, tuple[str, ...]]:
        """Write what is not there, the manifest last; the manifest that is there then, and the files that this wrote.

        ``files`` are by the names in the manifest. A complete bundle of another version with this very engine stays as
        it is: the engine is measured again, and the same. ``sent`` is told bytes.

        Raises:
            TamperedError: other bytes are there, by whoever; nothing is overwritten.
        """
        with s3_border(self._client, self.place.bucket):
            self.check()
            earlier = self.manifest(manifest.name, manifest.target, manifest.digest)
            if earlier is not None:
                self._require_same(earlier, manifest)
            agreed = earlier or manifest
            folder = self._folder(manifest.name, manifest.target, manifest.digest)
            paths = {} if earlier else files
            written = [file.name for file in agreed.files if self._put(folder, file, paths.get(file.name), sent)]
            if earlier is None and self._put_manifest(folder, manifest):
                written.append(MANIFEST_FILE)
            return agreed, tuple(written)

    def manifest(self, name: str, target: str, digest: str) -> BundleManifest | None:
        """The manifest of a bundle; None where it is not complete.

        Raises:
            InfrastructureError: another version of Slipway wrote it.
        """
        from botocore.exceptions import ClientError

        key = self._folder(name, target, digest) + MANIFEST_FILE
        with s3_border(self._client, self.place.bucket):
            try:
                text = self._client.get_object(Bucket=self.place.bucket, Key=key)["Body"].read()
            except ClientError as error:
                if code_of(error) not in MISSING_CODES:
                    raise
                return None
        try:
            found = BundleManifest.model_validate_json(text)
        except ValidationError as error:
            raise InfrastructureError(
                f"s3://{self.place.bucket}/{key} cannot be read by Slipway {slipway.__version__}: another version "
                "wrote it, or something else did; install that version, or delete it and publish again"
            ) from error
        if (found.name, found.target, found.digest) != (name, target, digest):
            raise TamperedError(
                f"s3://{self.place.bucket}/{key} is the manifest of {found.name}.{found.target} {found.digest[:12]}; "
                "find out who wrote it, delete it, and publish again"
            )
        return found

    def published(self) -> list[tuple[str, str]]:
        """Name and target of everything that lies there."""
        with s3_border(self._client, self.place.bucket):
            return [
                (name, target)
                for name in self._folders(f"{self.place.prefix}/")
                for target in self._folders(f"{self.place.prefix}/{name}/")
            ]

    def bundles(self, name: str, target: str, digest: str = "") -> list[StoredBundle]:
        """The bundles of a model's target whose digest starts so, complete or not, oldest first."""
        start = f"{self.place.prefix}/{_plain(name)}/{_plain(target)}/"
        found: dict[str, list[dict[str, Any]]] = {}
        with s3_border(self._client, self.place.bucket):
            for page in self._pages("list_objects_v2", Prefix=start + digest):
                for one in page.get("Contents", ()):
                    digest, _, rest = one["Key"].removeprefix(start).partition("/")
                    if re.fullmatch("[0-9a-f]{64}", digest) and rest:
                        one["age"] = now_there(page) - one["LastModified"].timestamp()
                        found.setdefault(digest, []).append(one)
        listed = [self._stored(name, target, digest, objects) for digest, objects in found.items()]
        return sorted(listed, key=lambda bundle: -bundle.age_seconds)

    def delete(self, bundle: StoredBundle) -> None:
        """Delete a bundle, the manifest before all else, so that what is half deleted never looks whole."""
        first = [key for key in bundle.keys if key.endswith(f"/{MANIFEST_FILE}")]
        rest = [key for key in bundle.keys if key not in first]
        with s3_border(self._client, self.place.bucket):
            for start in (first, *(rest[at : at + DELETED_AT_ONCE] for at in range(0, len(rest), DELETED_AT_ONCE))):
                self._delete(start)

    def abandoned(self, name: str, target: str, older_than_seconds: float) -> list[tuple[str, str, float]]:
        """Key, id and age in seconds of the uploads that nobody has gone on with for so long."""
        start = f"{self.place.prefix}/{_plain(name)}/{_plain(target)}/"
        with s3_border(self._client, self.place.bucket):
            return [one for one in self._uploader.unfinished(start) if one[2] > older_than_seconds]

    def abort(self, key: str, upload_id: str) -> None:
        """Drop the parts of an unfinished upload."""
        with s3_border(self._client, self.place.bucket):
            self._uploader.abort(key, upload_id)

    def links(self, manifest: BundleManifest, expires_seconds: int) -> list[Link]:
        """Addresses of the manifest and of every file, the manifest first, for at most seven days.

        Raises:
            BadInputError: for longer.
        """
        check_link_seconds(expires_seconds)
        folder = self._folder(manifest.name, manifest.target, manifest.digest)
        with s3_border(self._client, self.place.bucket):
            text = self._client.get_object(Bucket=self.place.bucket, Key=folder + MANIFEST_FILE)["Body"].read()
            own = BundleFile(name=MANIFEST_FILE, size_bytes=len(text), sha256=hashlib.sha256(text).hexdigest())
            return [Link(file, self._link(folder + file.name, expires_seconds)) for file in (own, *manifest.files)]

    def _link(self, key: str, expires_seconds: int) -> str:
        asked = {"Bucket": self.place.bucket, "Key": key}
        return str(self._client.generate_presigned_url("get_object", Params=asked, ExpiresIn=expires_seconds))

    def _put(self, folder: str, file: BundleFile, path: Path | None, sent: Sent) -> bool:
        """Write a file, or where a complete bundle has it, prove it alone."""
        if path is None:
            self._uploader.prove(folder + file.name, file.size_bytes, file.sha256)
            sent(file.size_bytes)
            return False
        return self._uploader.put(Upload(folder + file.name, path, file.size_bytes, file.sha256), sent)

    def _put_manifest(self, folder: str, manifest: BundleManifest) -> bool:
        content = canonical_json(manifest).encode()
        with TemporaryDirectory() as scratch:
            path = Path(scratch) / MANIFEST_FILE
            path.write_bytes(content)
            sha256 = hashlib.sha256(content).hexdigest()
            return self._uploader.put(Upload(folder + MANIFEST_FILE, path, len(content), sha256), lambda _: None)

    def _require_same(self, there: BundleManifest, ours: BundleManifest) -> None:
        if there.version == ours.version:
            differ = [key for key in type(ours).model_fields if getattr(there, key) != getattr(ours, key)]
        else:
            differ = [] if set(there.engine_files) == set(ours.engine_files) else ["files"]
        if odd := [key for key in differ if key not in ONE_VERSIONS]:
            raise TamperedError(
                f"{self.uri(ours.name, ours.target, ours.digest)}{MANIFEST_FILE} tells another {', '.join(odd)} than "
                f"the registry does of version {there.version}; nothing was overwritten: find out who wrote it, delete "
                "the bundle, and publish again"
            )

    def _stored(self, name: str, target: str, digest: str, objects: list[dict[str, Any]]) -> StoredBundle:
        keys = tuple(one["Key"] for one in objects)
        complete = self._folder(name, target, digest) + MANIFEST_FILE in keys
        return StoredBundle(
            name=name,
            target=target,
            digest=digest,
            keys=keys,
            size_bytes=sum(one["Size"] for one in objects),
            age_seconds=min(one["age"] for one in objects),
            manifest=self.manifest(name, target, digest) if complete else None,
        )

    def _delete(self, keys: list[str]) -> None:
        if not keys:
            return
        asked = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
        refused = self._client.delete_objects(Bucket=self.place.bucket, Delete=asked).get("Errors", ())
        if refused:
            raise InfrastructureError(
                f"{len(refused)} of {len(keys)} objects could not be deleted, such as s3://{self.place.bucket}/"
                f"{refused[0]['Key']}: {refused[0].get('Message', refused[0].get('Code'))}; prune again"
            )

    def _folders(self, start: str) -> Iterator[str]:
        for page in self._pages("list_objects_v2", Prefix=start, Delimiter="/"):
            names = (one["Prefix"].removeprefix(start).rstrip("/") for one in page.get("CommonPrefixes", ()))
            yield from (name for name in names if re.fullmatch(PLAIN_NAME, name))

    def _pages(self, operation: str, **asked: str) -> Iterator[Any]:
        return iter(self._client.get_paginator(operation).paginate(Bucket=self.place.bucket, **asked))

    def _folder(self, name: str, target: str, digest: str) -> str:
        return f"{self.place.prefix}/{_plain(name)}/{_plain(target)}/{digest}/"


def _plain(word: str) -> str:
    if not re.fullmatch(PLAIN_NAME, word):
        raise BadInputError(f"{word!r} cannot be part of a key in S3; it may hold letters, digits and . _ + - alone")
    return word


def check_link_seconds(expires_seconds: float) -> None:
    """Refuse a time for which no link can be made.

    Raises:
        BadInputError: it is longer than seven days, or none.
    """
    if not 0 < expires_seconds <= MOST_LINK_SECONDS:
        raise BadInputError(
            f"links for {expires_seconds:.0f} s cannot be made; a signature lasts at most seven days: --expires 168h"
        )


def digest_with(bundles: list[StoredBundle], prefix: str, missing: str) -> BundleManifest:
    """The manifest of the one complete bundle whose digest starts so; ``missing`` says so where there is none.

    Raises:
        BadInputError: there is none, or there are several.
    """
    found = [one.manifest for one in bundles if one.manifest is not None and one.digest.startswith(prefix)]
    if len(found) != 1:
        several = ", ".join(one.digest[:16] for one in found)
        raise BadInputError(f"several bundles start with {prefix}: {several}; give more digits" if found else missing)
    return found[0]
