from __future__ import annotations

import pytest

from slipway.errors import BadInputError
from slipway.stores.s3_connection import ATTEMPTS, S3Place, parse_place, s3_client


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("s3://bucket", S3Place("bucket", "engines")),
        ("s3://bucket/", S3Place("bucket", "engines")),
        ("s3://bucket/engines", S3Place("bucket", "engines")),
        ("s3://my-bucket.1/team/a/", S3Place("my-bucket.1", "team/a")),
    ],
)
def test_a_place_is_a_bucket_and_a_prefix(text: str, place: S3Place) -> None:
    assert parse_place(text) == place


@pytest.mark.parametrize(
    "text",
    [
        "bucket",
        "s3://",
        "s3:///engines",
        "s3://B/engines",
        "s3://bucket/../other",
        "s3://bucket/a//b",
        "https://b/c",
        "",
    ],
)
def test_what_is_no_place_is_told(text: str) -> None:
    with pytest.raises(BadInputError, match=r" is no place in S3; give s3://BUCKET or s3://BUCKET/PREFIX$"):
        parse_place(text)


def test_without_a_place_the_environments_bucket_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_BUCKET", "ours")
    assert parse_place(None) == S3Place("ours", "engines")
    monkeypatch.delenv("SLIPWAY_BUCKET")
    with pytest.raises(BadInputError, match=r"^no bucket is given; give --to s3://BUCKET, or set SLIPWAY_BUCKET"):
        parse_place(None)


def test_the_client_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://seaweedfs:8333")

    client = s3_client()

    assert client.meta.config.retries == {"mode": "standard", "total_max_attempts": ATTEMPTS}
    link = client.generate_presigned_url("get_object", Params={"Bucket": "b-1", "Key": "k"}, ExpiresIn=60)
    # The bucket in the path, since BUCKET.seaweedfs is no host; and the signature that can last a week.
    assert link.startswith("http://seaweedfs:8333/b-1/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&")


def test_an_endpoint_that_is_none_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "not a url")
    with pytest.raises(BadInputError, match=r"^cannot speak to S3: .*; check the AWS_\* variables$"):
        s3_client()
