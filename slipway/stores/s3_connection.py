"""The border to S3: a client as the environment chooses it, and errors in Slipway's own words."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from slipway.errors import BadInputError, InfrastructureError, RejectedError, SlipwayError

BUCKET_VARIABLE = "SLIPWAY_BUCKET"
DEFAULT_PREFIX = "engines"
ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
ATTEMPTS = 5  # over about eight seconds
CONNECT_SECONDS, READ_SECONDS = 5, 60
CONNECTIONS = 16
MISSING_CODES = {"404", "NoSuchKey", "NotFound"}
CONFLICT_CODES = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}
NO_UPLOAD = "NoSuchUpload"
WRONG_KEY_CODES = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "401"}
REFUSED_CODES = {"403", "AccessDenied", "AllAccessDisabled"}
NO_BUCKET_CODES = {"NoSuchBucket", "InvalidBucketName"}
TRANSIENT_STATUS = 500
SET_KEYS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to a pair that the server at {endpoint} knows"


class S3Place(NamedTuple):
    """Where bundles lie: a bucket, and the prefix of their keys (no slash at its ends)."""

    bucket: str
    prefix: str

    def __str__(self) -> str:
        """``s3://BUCKET/PREFIX``."""
        return f"s3://{self.bucket}/{self.prefix}"


def parse_place(text: str | None) -> S3Place:
    """The place that ``s3://BUCKET[/PREFIX]`` names; ``engines`` where no prefix is given, as in $SLIPWAY_BUCKET.

    Raises:
        BadInputError: it is no such address, or nothing is given and $SLIPWAY_BUCKET is not set.
    """
    if text is None:
        bucket = os.environ.get(BUCKET_VARIABLE)
        if not bucket:
            raise BadInputError(f"no bucket is given; give --to s3://BUCKET, or set {BUCKET_VARIABLE} to its name")
        text = f"s3://{bucket}"
    found = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/([A-Za-z0-9_][A-Za-z0-9._/-]*?))?/?", text)
    if found is None or {"", ".", ".."} & set((found[2] or DEFAULT_PREFIX).split("/")):
        raise BadInputError(f"{text!r} is no place in S3; give s3://BUCKET or s3://BUCKET/PREFIX")
    return S3Place(found[1], found[2] or DEFAULT_PREFIX)


def s3_client() -> Any:
    """A boto3 client as the AWS_* variables say; it retries what is transient.

    Raises:
        BadInputError: the variables name something that boto3 cannot use.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    own_server = any(os.environ.get(variable) for variable in ENDPOINT_VARIABLES)
    config = Config(
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        max_pool_connections=CONNECTIONS,
        signature_version="s3v4",  # without it links are signed in the old way, which knows no week
        # Other servers are seldom reached as BUCKET.HOST.
        s3={"addressing_style": "path" if own_server else "auto"},
    )
    try:
        return boto3.Session().client("s3", config=config)
    except (BotoCoreError, ValueError) as error:
        raise BadInputError(f"cannot speak to S3: {_one_line(error)}; check the AWS_* variables") from error


def check_bucket(client: Any, bucket: str) -> None:
    """Find out whether the bucket is there; some servers would make it at the first write.

    Raises:
        BadInputError: it is not there, or the keys are wrong.
        InfrastructureError: the server does not answer.
    """
    from botocore.exceptions import ClientError

    with s3_border(client, bucket):
        try:
            client.head_bucket(Bucket=bucket)
        except ClientError as error:
            if code_of(error) in MISSING_CODES:
                raise _no_bucket(client, bucket) from error
            client.list_objects_v2(Bucket=bucket, MaxKeys=1)  # unlike that answer, this one says why


@contextlib.contextmanager
def s3_border(client: Any, bucket: str) -> Iterator[None]:
    """Turn what boto3 raises in the block into one of Slipway's errors, in one line."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except SlipwayError:
        raise
    except (BotoCoreError, ClientError, Boto3Error) as error:
        raise _translated(client, bucket, error) from error


def code_of(error: Exception) -> str:
    """S3's word for what went wrong; empty where the server gave none."""
    response: Mapping[str, Any] = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def now_there(response: Mapping[str, Any]) -> float:
    """The server's own time when it gave ``response``, in seconds since 1970; ages are told by it."""
    date = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    return parsedate_to_datetime(date).timestamp() if date else time.time()


def _translated(client: Any, bucket: str, error: Exception) -> SlipwayError:
    from botocore.exceptions import NoCredentialsError, PartialCredentialsError

    endpoint, code = str(client.meta.endpoint_url), code_of(error)
    store = f"S3 at {endpoint}, bucket {bucket}"
    status = (getattr(error, "response", None) or {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return BadInputError(f"{store}: no keys are given; {SET_KEYS.format(endpoint=endpoint)}")
    if code in WRONG_KEY_CODES:
        return BadInputError(f"{store}: the key is not accepted ({code}); {SET_KEYS.format(endpoint=endpoint)}")
    if code in REFUSED_CODES:
        return RejectedError(f"{store}: {_one_line(error)}; ask for the right to read, write and list there")
    if code in NO_BUCKET_CODES:
        return _no_bucket(client, bucket)
    advice = "check the server's log and its disk" if status >= TRANSIENT_STATUS else "check it and try again"
    if not code:
        advice = "check that the server is up and AWS_ENDPOINT_URL is right"
    return InfrastructureError(f"{store}: {_one_line(error)}; {advice}; the same command goes on from here")


def _no_bucket(client: Any, bucket: str) -> BadInputError:
    return BadInputError(
        f"S3 at {client.meta.endpoint_url} has no bucket {bucket}; make it (`python -m infra.setup`, or `aws s3 mb "
        f"s3://{bucket}`), or name another one with --to or {BUCKET_VARIABLE}"
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
