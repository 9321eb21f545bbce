"""The stack's S3 server alone, on free ports of this host, which can be killed and started again with its data."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

from infra.stack import Stack
from infra.stack.layout import PORTS
from infra.stack.seaweedfs import NAME
from tests.ports import free_ports

BUCKET = "slipway"


class SeaweedFs:
    """A server whose data lie in ``home``; a context manager that leaves nothing running. It has one empty bucket."""

    def __init__(self, home: Path) -> None:
        self._stack = Stack(home, free_ports(PORTS), only=[NAME])
        self.environment = self._stack.environment
        self.endpoint = self.environment["AWS_ENDPOINT_URL"]

    def client(self) -> Any:
        """A boto3 client that does not retry."""
        import boto3
        from botocore.config import Config

        known = self.environment
        return boto3.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=known["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=known["AWS_SECRET_ACCESS_KEY"],
            region_name=known["AWS_DEFAULT_REGION"],
            config=Config(signature_version="s3v4", retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
        )

    def start(self) -> None:
        """Start it and wait until it stores what it is given."""
        self._stack.up()
        client = self.client()
        if BUCKET not in {one["Name"] for one in client.list_buckets()["Buckets"]}:
            client.create_bucket(Bucket=BUCKET)

    def kill(self) -> None:
        """End it at once, as a fault would."""
        self._stack.service(NAME).kill()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()  # its data are of no further use


def fetched(url: str) -> tuple[int, bytes]:
    """Status and body of what plain HTTP gets there."""
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
