"""The S3 bucket of data, artifacts and engines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from infra.provision.things import Change, Skip, Thing
from slipway.errors import BadInputError, InfrastructureError, SlipwayError

ENDPOINT, BUCKET = "AWS_ENDPOINT_URL", "SLIPWAY_BUCKET"
ABSENT, REFUSED = {"404", "NoSuchBucket"}, {"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
AWS_DEFAULT = "us-east-1"  # the one region that must not be named when a bucket is made


def bucket_things(environment: Mapping[str, str]) -> Iterator[Thing]:
    """The bucket that the environment names.

    Raises:
        Skip: it names none.
    """
    if missing := [name for name in (ENDPOINT, BUCKET) if not environment.get(name)]:
        raise Skip(f"{' and '.join(missing)} not set: bucket")
    bucket = environment[BUCKET]
    yield Thing(f"bucket {bucket}", lambda: ensure_bucket(_client(), bucket))


def ensure_bucket(client: Any, bucket: str) -> Change:
    """Make the bucket, empty and private; one that is there stays as it is."""
    from botocore.exceptions import ClientError

    try:
        client.head_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ABSENT:
            raise
        region = client.meta.region_name
        place = {} if region in {None, AWS_DEFAULT} else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        client.create_bucket(Bucket=bucket, **place)
        return Change.CREATED
    return Change.THERE


def in_our_words(error: Exception) -> SlipwayError | None:
    """The error of the S3 client, told with what to do."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    if isinstance(error, NoCredentialsError):
        return BadInputError("S3 asks who you are; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if isinstance(error, ClientError):
        code = error.response["Error"]["Code"]
        if code in REFUSED:
            return BadInputError(
                f"S3 does not let you in ({code}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to a key that may "
                f"make and read the bucket, or {BUCKET} to one that is yours"
            )
        return InfrastructureError(f"S3 failed: {error}; look at the server's log")
    if isinstance(error, (BotoCoreError, ValueError)):  # the latter for an address that is none
        return InfrastructureError(f"S3 did not answer: {error}; start it, or correct {ENDPOINT}")
    return None


def _client() -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client("s3", config=Config(connect_timeout=5, read_timeout=30, retries={"total_max_attempts": 2}))
