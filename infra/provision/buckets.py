"""The S3 bucket of data, artifacts and engines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from infra.provision.things import Change, Skip, Thing
from slipway.stores.s3_connection import BUCKET_VARIABLE, MISSING_CODES, code_of, parse_place, s3_border, s3_client

ENDPOINT = "AWS_ENDPOINT_URL"
AWS_DEFAULT = "us-east-1"  # the one region that must not be named when a bucket is made


def bucket_things(environment: Mapping[str, str]) -> Iterator[Thing]:
    """The bucket that the environment names.

    Raises:
        Skip: it names none.
        BadInputError: no bucket could have that name.
    """
    if missing := [name for name in (ENDPOINT, BUCKET_VARIABLE) if not environment.get(name)]:
        raise Skip(f"{' and '.join(missing)} not set: bucket")
    bucket = parse_place(f"s3://{environment[BUCKET_VARIABLE]}").bucket
    yield Thing(f"bucket {bucket}", lambda: ensure_bucket(s3_client(), bucket))


def ensure_bucket(client: Any, bucket: str) -> Change:
    """Make the bucket, empty and private; one that is there stays as it is.

    Raises:
        BadInputError: the keys are wrong.
        RejectedError: they may not do that.
        InfrastructureError: the server does not answer.
    """
    from botocore.exceptions import ClientError

    with s3_border(client, bucket):
        try:
            client.head_bucket(Bucket=bucket)
        except ClientError as error:
            if code_of(error) not in MISSING_CODES:
                client.list_objects_v2(Bucket=bucket, MaxKeys=1)  # unlike that answer, this one says why
                raise
            region = client.meta.region_name
            abroad = {} if region in {None, AWS_DEFAULT} else {"LocationConstraint": region}
            client.create_bucket(Bucket=bucket, **({"CreateBucketConfiguration": abroad} if abroad else {}))
            return Change.CREATED
        return Change.THERE
