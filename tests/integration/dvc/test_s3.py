"""Data and results travel through a real S3 server to another directory."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.dvc.conftest import ALWAYS, ENGINES, VARIANTS, Checkout

pytestmark = pytest.mark.integration

BUCKET, KEY, SECRET = "slipway", "slipway-tests", "not-a-secret"
START_SECONDS = 60
SERVICES = ("master", "volume", "filer", "s3")


def free_ports(count: int) -> list[int]:
    """Ports that are free now, all held at once so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a SeaweedFS server with an empty bucket."""
    program = Path(sys.executable).parent / "weed"
    home = tmp_path_factory.mktemp("seaweedfs")
    identity = {"name": "tests", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
    (home / "id.json").write_text(json.dumps({"identities": [identity]}))
    ports = dict(zip((*SERVICES, *(f"{name}.grpc" for name in SERVICES)), free_ports(8), strict=True))
    options = [
        f"-{service.removesuffix('.grpc')}.port{'.grpc' if service.endswith('.grpc') else ''}={port}"
        for service, port in ports.items()
    ]
    command = [
        *(program, "server", f"-dir={home}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"),
        *(f"-s3.config={home / 'id.json'}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"),
        *options,
    ]
    with (home / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log, cwd=home) as server:
        try:
            _await_bucket(f"http://127.0.0.1:{ports['s3']}", server, home / "log")
            yield f"http://127.0.0.1:{ports['s3']}"
        finally:
            server.kill()  # its data are of no further use


def _await_bucket(endpoint: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Make the bucket as soon as the server answers."""
    import s3fs

    deadline = time.monotonic() + START_SECONDS
    while True:
        files = s3fs.S3FileSystem(key=KEY, secret=SECRET, endpoint_url=endpoint, skip_instance_cache=True)
        try:
            files.mkdir(BUCKET)
            files.touch(f"{BUCKET}/ready")
        except OSError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        else:
            return


def use_s3(checkout: Checkout, endpoint: str) -> None:
    """As docs/guides/dvc.md tells it."""
    checkout.told("dvc", "remote", "add", "--local", "--default", "--force", "s3", f"s3://{BUCKET}/data")
    for name, value in (("endpointurl", endpoint), ("access_key_id", KEY), ("secret_access_key", SECRET)):
        checkout.told("dvc", "remote", "modify", "--local", "s3", name, value)


def test_what_was_pushed_reproduces_elsewhere(checkout: Checkout, endpoint: str, tmp_path: Path) -> None:
    before = checkout.digests()
    use_s3(checkout, endpoint)
    checkout.told("dvc", "push")

    clone = Checkout(tmp_path / "elsewhere")
    checkout.told("git", "clone", "--quiet", ".", str(clone.root))
    use_s3(clone, endpoint)
    clone.told("dvc", "pull")

    assert clone.repro() == ALWAYS
    assert clone.digests() == before
    # And made anew from the model and the data that travelled, not only copied.
    again = [
        "export@onnx",
        *(f"quantize@{variant}-onnx" for variant in VARIANTS),
        *(f"build@x86-{engine}-{variant}" for engine in ENGINES for variant in VARIANTS),
    ]
    shutil.rmtree(clone.root / "stages" / "build")
    clone.told("dvc", "repro", "--force", "--single-item", *again)
    assert clone.digests() == before
