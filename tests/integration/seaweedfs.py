"""A real S3 server: SeaweedFS on free ports of this host, which can be killed and started again with its data."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

KEY, SECRET = "slipway-tests", "not-a-secret"
BUCKET = "slipway"
START_SECONDS = 120
SERVICES = ("master", "volume", "filer", "s3")


def free_ports(count: int) -> list[int]:
    """Ports that are free now, all held at once so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class SeaweedFs:
    """A server whose data lie in ``home``; a context manager that leaves nothing running. It has one empty bucket."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._ports = dict(zip((*SERVICES, *(f"{name}.grpc" for name in SERVICES)), free_ports(8), strict=True))
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = f"http://127.0.0.1:{self._ports['s3']}"
        identity = {"name": "tests", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
        (home / "id.json").write_text(json.dumps({"identities": [identity]}))

    @property
    def environment(self) -> dict[str, str]:
        """With which S3's clients find it."""
        keys = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
        return {**keys, "AWS_ENDPOINT_URL": self.endpoint, "AWS_DEFAULT_REGION": "us-east-1"}

    def client(self) -> Any:
        """A boto3 client that does not retry."""
        import boto3
        from botocore.config import Config

        config = Config(signature_version="s3v4", retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
        keys = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
        return boto3.Session().client("s3", endpoint_url=self.endpoint, config=config, **keys)

    def start(self) -> None:
        """Start it and wait until it stores what it is given."""
        ports = [
            f"-{service.removesuffix('.grpc')}.port{'.grpc' if service.endswith('.grpc') else ''}={port}"
            for service, port in self._ports.items()
        ]
        command = [
            *(str(Path(sys.executable).parent / "weed"), "server", f"-dir={self._home}", "-ip=127.0.0.1"),
            *("-ip.bind=127.0.0.1", "-filer", "-s3", f"-s3.config={self._home / 'id.json'}"),
            *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"),
            # By default there is room for one bucket: each takes seven volumes of eight.
            *("-volume.max=100", "-master.volumeSizeLimitMB=1024"),
            *ports,
        ]
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._home, start_new_session=True)
        self._await()

    def kill(self) -> None:
        """End it at once, as a fault would."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()  # its data are of no further use

    def _await(self) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        deadline, client = time.monotonic() + START_SECONDS, self.client()
        while True:
            try:
                if BUCKET not in {one["Name"] for one in client.list_buckets()["Buckets"]}:
                    client.create_bucket(Bucket=BUCKET)
                client.put_object(Bucket=BUCKET, Key="ready", Body=b"")
                client.put_object(Bucket=BUCKET, Key="ready", Body=b"yes")
                client.delete_object(Bucket=BUCKET, Key="ready")
            except (BotoCoreError, ClientError):
                told = (self._home / "log").read_text(errors="replace")[-4000:]
                assert self._process is not None
                assert self._process.poll() is None, told
                assert time.monotonic() < deadline, told
                time.sleep(0.3)
            else:
                return


def fetched(url: str) -> tuple[int, bytes]:
    """Status and body of what plain HTTP gets there."""
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
