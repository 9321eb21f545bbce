"""Files into S3, each written once and never over another: large ones in parts that a later try goes on with."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from slipway.errors import InfrastructureError, TamperedError
from slipway.stores.s3_connection import CONFLICT_CODES, MISSING_CODES, NO_UPLOAD, code_of, now_there

SHA256_KEY = "sha256"  # of the object's metadata
READ_BYTES = 1 << 20
MOST_PARTS = 10_000  # S3's own limit
QUIET_SECONDS = 900.0  # a publisher that lives sends a part more often
TRIES = 3

Sent = Callable[[int], None]


class PartSizes(NamedTuple):
    """From how many bytes on a file goes in parts, how large each is, and how many go at once."""

    large_bytes: int = 64 << 20
    part_bytes: int = 16 << 20
    at_once: int = 4


class Upload(NamedTuple):
    """A file to be written as ``key``."""

    key: str
    path: Path
    size_bytes: int
    sha256: str


class Part(NamedTuple):
    """A part of a file: what S3 numbers from 1 on."""

    number: int
    start: int
    size_bytes: int


class Uploader:
    """Writes files into one bucket.

    ``journal`` is a directory of this host: what it began there is gone on with at once by whoever comes next, and only
    by one process at a time. What another host began is left alone while that may be at work on it.
    """

    def __init__(self, client: Any, bucket: str, journal: Path, sizes: PartSizes | None = None) -> None:
        self._client = client
        self._bucket = bucket
        self._journal = journal
        self._sizes = sizes or PartSizes()

    def put(self, upload: Upload, sent: Sent) -> bool:
        """Write the file unless it is there, and prove what is there; whether this call wrote it.

        ``sent`` is told bytes as they arrive, those that an earlier publisher sent too.

        Raises:
            TamperedError: other bytes are there, by whoever.
        """
        written = False
        if not self._exists(upload.key):
            written = self._in_parts(upload, sent) if self._large(upload) else self._at_once(upload)
        if not self._large(upload) or not written:
            sent(upload.size_bytes)
        self.prove(upload.key, upload.size_bytes, upload.sha256)
        return written

    def prove(self, key: str, size_bytes: int, sha256: str) -> None:
        """Hold the object against what it has to be: by S3's sha256 of the whole if it tells one, else by reading it.

        Raises:
            TamperedError: it is another.
            InfrastructureError: it is not there.
        """
        head = self._head(key)
        if head is None:
            raise InfrastructureError(f"{self._uri(key)} was there and is gone; somebody deletes there; try again")
        told = head.get("Metadata", {}).get(SHA256_KEY)
        if head["ContentLength"] != size_bytes or told != sha256:
            found = f"{head['ContentLength']} bytes, sha256 {told or 'not told'}"
            raise self._tampered(key, f"{size_bytes} bytes, sha256 {sha256}", found)
        if head.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT" and (full := _hex(head.get("ChecksumSHA256"))):
            found = full
        else:
            found = self.sha256_by_reading(key)
        if found != sha256:
            raise self._tampered(key, f"sha256 {sha256}", f"bytes whose sha256 is {found}")

    def sha256_by_reading(self, key: str) -> str:
        """The sha256 of the bytes that S3 gives out; a read that breaks off is begun again."""
        from botocore.exceptions import BotoCoreError

        for left in reversed(range(TRIES)):
            hashed = hashlib.sha256()
            try:
                body = self._client.get_object(Bucket=self._bucket, Key=key)["Body"]
                for chunk in body.iter_chunks(READ_BYTES):
                    hashed.update(chunk)
            except BotoCoreError:
                if not left:
                    raise
            else:
                return hashed.hexdigest()
        raise AssertionError("the last try returned or raised")

    def _large(self, upload: Upload) -> bool:
        return upload.size_bytes >= self._sizes.large_bytes

    def _at_once(self, upload: Upload) -> bool:
        from botocore.exceptions import ClientError

        try:
            with upload.path.open("rb") as stream:
                self._client.put_object(
                    Bucket=self._bucket,
                    Key=upload.key,
                    Body=stream,
                    IfNoneMatch="*",
                    Metadata={SHA256_KEY: upload.sha256},
                    ChecksumSHA256=_spelt(bytes.fromhex(upload.sha256)),
                )
        except ClientError as error:
            if code_of(error) not in CONFLICT_CODES or not self._exists(upload.key):
                raise
            return False  # another publisher was first
        return True

    def _in_parts(self, upload: Upload, sent: Sent) -> bool:
        """Send the file in parts, and let S3 make an object of them, which nobody sees before."""
        from botocore.exceptions import ClientError

        self._journal.mkdir(parents=True, exist_ok=True)
        note = self._journal / hashlib.sha256(self._uri(upload.key).encode()).hexdigest()[:32]
        with FileLock(f"{note}.lock"):
            if self._exists(upload.key):
                return False
            for left in reversed(range(TRIES)):
                upload_id = self._unfinished(upload.key, note) or self._begin(upload)
                note.write_text(upload_id, encoding="utf-8")
                try:
                    self._complete(upload, upload_id, self._send(upload, upload_id, sent))
                except ClientError as error:
                    if code_of(error) in CONFLICT_CODES and self._exists(upload.key):
                        self.abort(upload.key, upload_id)
                    elif code_of(error) != NO_UPLOAD or not left:
                        raise
                    if self._exists(upload.key):
                        note.unlink()
                        return False
                else:
                    note.unlink()
                    return True
        raise AssertionError("the last try returned or raised")

    def abort(self, key: str, upload_id: str) -> None:
        """Drop the parts of an upload; that it is gone already is as good."""
        from botocore.exceptions import ClientError

        try:
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload_id)
        except ClientError as error:
            if code_of(error) != NO_UPLOAD:
                raise

    def unfinished(self, prefix: str) -> Iterator[tuple[str, str, float]]:
        """Key, id and age in seconds (since its last part came) of each upload below ``prefix`` that was not ended."""
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=prefix)
        for page in pages:
            for one in page.get("Uploads", ()):
                times = [one["Initiated"], *(part["LastModified"] for part in self._parts(one["Key"], one["UploadId"]))]
                yield one["Key"], one["UploadId"], now_there(page) - max(time.timestamp() for time in times)

    def _unfinished(self, key: str, note: Path) -> str | None:
        """The upload to go on with: this host's own, else one whose publisher is silent."""
        own = note.read_text(encoding="utf-8") if note.exists() else None
        found = [(upload_id, age_s) for of, upload_id, age_s in self.unfinished(key) if of == key]
        silent = (upload_id for upload_id, age_s in found if age_s > QUIET_SECONDS)
        return own if own in {upload_id for upload_id, _ in found} else next(silent, None)

    def _begin(self, upload: Upload) -> str:
        begun = self._client.create_multipart_upload(
            Bucket=self._bucket, Key=upload.key, Metadata={SHA256_KEY: upload.sha256}, ChecksumAlgorithm="SHA256"
        )
        return str(begun["UploadId"])

    def _send(self, upload: Upload, upload_id: str, sent: Sent) -> list[dict[str, Any]]:
        """Send the parts that are not there, and tell of all what S3 calls them."""
        there = {part["PartNumber"]: part for part in self._parts(upload.key, upload_id)}
        size = max(self._sizes.part_bytes, -(-upload.size_bytes // MOST_PARTS))
        starts = range(0, upload.size_bytes, size)
        parts = [Part(n, start, min(size, upload.size_bytes - start)) for n, start in enumerate(starts, start=1)]
        with ThreadPoolExecutor(self._sizes.at_once) as pool:
            coming: dict[Future[dict[str, Any]], Part] = {
                pool.submit(self._send_part, upload, upload_id, part, there.get(part.number)): part for part in parts
            }
            try:
                for done in as_completed(coming):
                    done.result()
                    sent(coming[done].size_bytes)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [done.result() for done in coming]

    def _send_part(self, upload: Upload, upload_id: str, part: Part, there: dict[str, Any] | None) -> dict[str, Any]:
        with upload.path.open("rb") as stream:
            stream.seek(part.start)
            content = stream.read(part.size_bytes)
        checksum = _spelt(hashlib.sha256(content).digest())
        if there is None or not _same(there, content, checksum):
            there = self._client.upload_part(
                Bucket=self._bucket,
                Key=upload.key,
                UploadId=upload_id,
                PartNumber=part.number,
                Body=content,
                ChecksumSHA256=checksum,
            )
        return {"PartNumber": part.number, "ETag": there["ETag"], "ChecksumSHA256": checksum}

    def _complete(self, upload: Upload, upload_id: str, parts: list[dict[str, Any]]) -> None:
        self._client.complete_multipart_upload(
            Bucket=self._bucket,
            Key=upload.key,
            UploadId=upload_id,
            MultipartUpload={"Parts": parts},
            IfNoneMatch="*",
        )

    def _parts(self, key: str, upload_id: str) -> list[dict[str, Any]]:
        from botocore.exceptions import ClientError

        pages = self._client.get_paginator("list_parts").paginate(Bucket=self._bucket, Key=key, UploadId=upload_id)
        try:
            return [part for page in pages for part in page.get("Parts", ())]
        except ClientError as error:
            if code_of(error) != NO_UPLOAD:
                raise
            return []  # ended meanwhile

    def _exists(self, key: str) -> bool:
        return self._head(key) is not None

    def _head(self, key: str) -> dict[str, Any] | None:
        from botocore.exceptions import ClientError

        try:
            head: dict[str, Any] = self._client.head_object(Bucket=self._bucket, Key=key, ChecksumMode="ENABLED")
        except ClientError as error:
            if code_of(error) not in MISSING_CODES:
                raise
            return None
        return head

    def _tampered(self, key: str, expected: str, found: str) -> TamperedError:
        return TamperedError(
            f"{self._uri(key)} should hold {expected}, and holds {found}; nothing was overwritten: find out who wrote "
            "it, delete it, and publish again"
        )

    def _uri(self, key: str) -> str:
        return f"s3://{self._bucket}/{key}"


def _same(there: dict[str, Any], content: bytes, checksum: str) -> bool:
    """Whether a part that S3 lists is ``content``: by its sha256, else by its ETag, which is an md5 in most servers."""
    if there.get("Size") != len(content):
        return False
    if told := there.get("ChecksumSHA256"):
        return bool(told == checksum)
    return bool(there["ETag"].strip('"') == hashlib.md5(content, usedforsecurity=False).hexdigest())


def _spelt(digest: bytes) -> str:
    """A sha256 as S3 writes it."""
    return base64.b64encode(digest).decode()


def _hex(checksum: str | None) -> str | None:
    """A sha256 that S3 tells, in hexadecimal; None where it tells none, or that of its parts' (``...-3``)."""
    try:
        return base64.b64decode(checksum, validate=True).hex() if checksum else None
    except binascii.Error:
        return None
