"""MLflow: its tables on PostgreSQL, its artifacts through the server in S3, everybody asked who they are."""

from __future__ import annotations

import sys

from infra.stack.answers import answers_http
from infra.stack.layout import HOST, write_private
from infra.stack.seaweedfs import NAME as S3
from infra.stack.services import Recipe
from infra.stack.settings import ADMINISTRATOR, MLFLOW_BUCKET, REGION, Settings

NAME = "mlflow"
DRIVER = "postgresql+psycopg"  # psycopg 3; SQLAlchemy would take psycopg2
APP = "slipway-auth"  # basic-auth, and a log of who changed which alias and tag
# Hashing a password costs up to seconds a request, so what was right stays right for a minute. Each worker process
# would remember for itself, and go on taking an old password: so there is one.
CACHE_SECONDS = 60
WORKERS = 1
USERS = """\
[mlflow]
default_permission = READ
database_uri = {database}
admin_username = {administrator}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = {seconds}
"""


def recipe(settings: Settings) -> Recipe:
    """How it is run."""
    config = settings.layout.config("mlflow-users.ini")
    users = USERS.format(
        database=settings.postgres_url("mlflow", "mlflow_users", DRIVER),
        administrator=ADMINISTRATOR,
        seconds=CACHE_SECONDS,
    )
    options = (f"--host={HOST}", f"--port={settings.ports[NAME]}", f"--workers={WORKERS}", f"--app-name={APP}")
    return Recipe(
        name=NAME,
        command=lambda: (sys.executable, "-m", "mlflow", "server", *options),
        answers=lambda _: answers_http(f"{settings.http(NAME)}/health"),
        needs=("postgres", S3),
        ports={NAME: settings.ports[NAME]},
        environment=settings.environment(NAME, **_environment(settings)),
        prepare=lambda: write_private(config, users),
    )


def _environment(settings: Settings) -> dict[str, str]:
    keys, layout = settings.keys, settings.layout
    return {
        "MLFLOW_BACKEND_STORE_URI": settings.postgres_url("mlflow", "mlflow", DRIVER),
        "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{MLFLOW_BUCKET}",
        "MLFLOW_S3_ENDPOINT_URL": settings.http(S3),
        "AWS_ACCESS_KEY_ID": keys["s3-mlflow-id"],
        "AWS_SECRET_ACCESS_KEY": keys["s3-mlflow"],
        "AWS_DEFAULT_REGION": REGION,
        # Twice at once, not five times: who asks the server for a file tries again as well, and more patiently.
        "AWS_RETRY_MODE": "standard",
        "AWS_MAX_ATTEMPTS": "2",
        "MLFLOW_AUTH_CONFIG_PATH": str(layout.config("mlflow-users.ini")),
        "MLFLOW_AUTH_ADMIN_PASSWORD": keys["mlflow-admin"],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": keys["mlflow-forms"],
        # The receiver listens on this host without TLS; what it is sent is signed.
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": keys["mlflow-webhooks"],
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # for judges of language models: three processes more
        "SLIPWAY_AUDIT_LOG": str(layout.log("mlflow-audit").with_suffix(".jsonl")),
    }
