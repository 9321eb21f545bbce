"""S3 in memory, as far as Slipway uses it; it passes the same contract suite as a real server."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

from botocore.exceptions import ClientError
from botocore.response import StreamingBody

LEAST_PART_BYTES = 5 << 20
Answer = dict[str, Any]


@dataclass
class Stored:
    """An object; ``sha256`` is S3's own sum, of the parts' sums (``...-2``) where it came in parts."""

    content: bytes
    metadata: dict[str, str]
    sha256: str | None
    modified: datetime


@dataclass
class Unfinished:
    """An upload in parts that was not ended; parts by number, each with the time that it came at."""

    key: str
    metadata: dict[str, str]
    initiated: datetime
    parts: dict[int, tuple[bytes, datetime]] = field(default_factory=dict)


class FakeS3:
    """A boto3 client of a server in memory. ``before`` is called with each operation's name, and may raise."""

    def __init__(self, *buckets: str) -> None:
        self.buckets: dict[str, dict[str, Stored]] = {bucket: {} for bucket in buckets}
        self.uploads: dict[str, Unfinished] = {}
        self.meta = SimpleNamespace(endpoint_url="http://127.0.0.1:9")
        self.before: Callable[[str], None] = lambda operation: None
        self.called: list[str] = []
        self.ahead = timedelta()  # the server's clock
        self._numbers = itertools.count(1)

    def create_bucket(self, Bucket: str) -> Answer:  # noqa: N803 - boto3's spelling, here and below
        self._begin("create_bucket", None)
        self.buckets.setdefault(Bucket, {})
        return self._answer()

    def head_bucket(self, Bucket: str) -> Answer:  # noqa: N803
        self._begin("head_bucket", None)
        if Bucket not in self.buckets:
            raise _error("HeadBucket", "404", 404)  # an answer without a body has no code of its own
        return self._answer()

    def put_object(self, **asked: Any) -> Answer:
        objects = self._begin("put_object", asked["Bucket"])
        body = asked["Body"]
        content = body if isinstance(body, bytes) else body.read()
        sha256 = _checked("PutObject", content, asked.get("ChecksumSHA256"))
        _unless_there("PutObject", objects, asked)
        objects[asked["Key"]] = Stored(content, asked.get("Metadata", {}), sha256, self._now())
        return self._answer(ETag=_etag(content))

    def head_object(self, **asked: Any) -> Answer:
        found = self._begin("head_object", asked["Bucket"]).get(asked["Key"])
        if found is None:
            raise _error("HeadObject", "404", 404)
        told: Answer = {"ContentLength": len(found.content), "Metadata": dict(found.metadata)}
        told |= {"LastModified": found.modified}
        if found.sha256 and asked.get("ChecksumMode") == "ENABLED":
            told["ChecksumSHA256"] = found.sha256
            if "-" in found.sha256:
                told["ChecksumType"] = "COMPOSITE"
        return self._answer(**told)

    def get_object(self, **asked: Any) -> Answer:
        objects = self._begin("get_object", asked["Bucket"])
        if asked["Key"] not in objects:
            raise _error("GetObject", "NoSuchKey", 404)
        content = objects[asked["Key"]].content
        return self._answer(Body=StreamingBody(io.BytesIO(content), len(content)))

    def list_objects_v2(self, **asked: Any) -> Answer:
        objects, prefix = self._begin("list_objects_v2", asked["Bucket"]), asked.get("Prefix", "")
        contents, folders = [], set()
        for key, found in sorted(objects.items()):
            if not key.startswith(prefix):
                continue
            folder, delimiter, _ = key.removeprefix(prefix).partition(asked.get("Delimiter") or "\0")
            if delimiter:
                folders.add(prefix + folder + delimiter)
            else:
                contents.append({"Key": key, "Size": len(found.content), "LastModified": found.modified})
        told: Answer = {"Contents": contents} if contents else {}
        if folders:
            told["CommonPrefixes"] = [{"Prefix": one} for one in sorted(folders)]
        return self._answer(IsTruncated=False, **told)

    def delete_objects(self, **asked: Any) -> Answer:
        objects = self._begin("delete_objects", asked["Bucket"])
        for one in asked["Delete"]["Objects"]:
            objects.pop(one["Key"], None)
        return self._answer()

    def create_multipart_upload(self, **asked: Any) -> Answer:
        self._begin("create_multipart_upload", asked["Bucket"])
        upload_id = f"upload-{next(self._numbers)}"
        self.uploads[upload_id] = Unfinished(asked["Key"], asked.get("Metadata", {}), self._now())
        return self._answer(UploadId=upload_id)

    def upload_part(self, **asked: Any) -> Answer:
        self._begin("upload_part", asked["Bucket"])
        upload = self._upload("UploadPart", asked)
        _checked("UploadPart", asked["Body"], asked.get("ChecksumSHA256"))
        upload.parts[asked["PartNumber"]] = (asked["Body"], self._now())
        return self._answer(ETag=_etag(asked["Body"]))

    def list_parts(self, **asked: Any) -> Answer:
        self._begin("list_parts", asked["Bucket"])
        parts = self._upload("ListParts", asked).parts
        # As SeaweedFS: no sum of a part but its ETag.
        listed = [
            {"PartNumber": number, "Size": len(content), "ETag": _etag(content), "LastModified": came}
            for number, (content, came) in sorted(parts.items())
        ]
        return self._answer(IsTruncated=False, **({"Parts": listed} if listed else {}))

    def list_multipart_uploads(self, **asked: Any) -> Answer:
        self._begin("list_multipart_uploads", asked["Bucket"])
        found = [
            {"Key": upload.key, "UploadId": upload_id, "Initiated": upload.initiated}
            for upload_id, upload in self.uploads.items()
            if upload.key.startswith(asked.get("Prefix", ""))
        ]
        return self._answer(IsTruncated=False, **({"Uploads": found} if found else {}))

    def complete_multipart_upload(self, **asked: Any) -> Answer:
        objects = self._begin("complete_multipart_upload", asked["Bucket"])
        _unless_there("CompleteMultipartUpload", objects, asked)
        upload = self._upload("CompleteMultipartUpload", asked)
        named = asked["MultipartUpload"]["Parts"]
        contents = [upload.parts[part["PartNumber"]][0] for part in named]
        for part, content in zip(named, contents, strict=True):
            if part["ETag"] != _etag(content):
                raise _error("CompleteMultipartUpload", "InvalidPart", 400)
        if any(len(content) < LEAST_PART_BYTES for content in contents[:-1]):
            raise _error("CompleteMultipartUpload", "EntityTooSmall", 400)
        sums = hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in contents)).digest()
        composite = f"{base64.b64encode(sums).decode()}-{len(contents)}"
        objects[upload.key] = Stored(b"".join(contents), upload.metadata, composite, self._now())
        del self.uploads[asked["UploadId"]]
        return self._answer()

    def abort_multipart_upload(self, **asked: Any) -> Answer:
        self._begin("abort_multipart_upload", asked["Bucket"])
        self.uploads.pop(asked["UploadId"], None)
        return self._answer()

    def generate_presigned_url(self, operation: str, Params: dict[str, str], ExpiresIn: int) -> str:  # noqa: N803
        return f"{self.meta.endpoint_url}/{Params['Bucket']}/{Params['Key']}?X-Amz-Expires={ExpiresIn}"

    def get_paginator(self, operation: str) -> SimpleNamespace:
        """Pages of a listing; there is one."""

        def pages(**asked: Any) -> Iterator[Answer]:
            yield getattr(self, operation)(**asked)

        return SimpleNamespace(paginate=pages)

    def _begin(self, operation: str, bucket: str | None) -> dict[str, Stored]:
        self.called.append(operation)
        self.before(operation)
        if bucket is not None and bucket not in self.buckets:
            raise _error(operation, "NoSuchBucket", 404)
        return self.buckets.get(bucket or "", {})

    def _upload(self, operation: str, asked: Answer) -> Unfinished:
        if asked["UploadId"] not in self.uploads:
            raise _error(operation, "NoSuchUpload", 404)
        return self.uploads[asked["UploadId"]]

    def _now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def _answer(self, **told: Any) -> Answer:
        headers = {"date": format_datetime(self._now(), usegmt=True)}
        return {"ResponseMetadata": {"HTTPStatusCode": 200, "HTTPHeaders": headers}, **told}


def refusing(code: str, status: int, operation: str) -> Callable[[str], None]:
    """What a `FakeS3` calls before each operation, so that one of them is refused."""

    def before(asked: str) -> None:
        if asked == operation:
            raise _error(operation, code, status)

    return before


def _error(operation: str, code: str, status: int) -> ClientError:
    answer: Any = {"Error": {"Code": code, "Message": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, operation)


def _checked(operation: str, content: bytes, told: str | None) -> str | None:
    if told is not None and told != base64.b64encode(hashlib.sha256(content).digest()).decode():
        raise _error(operation, "BadDigest", 400)
    return told


def _unless_there(operation: str, objects: dict[str, Stored], asked: Answer) -> None:
    with suppress(KeyError):
        if asked["IfNoneMatch"] == "*" and asked["Key"] in objects:
            raise _error(operation, "PreconditionFailed", 412)


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
