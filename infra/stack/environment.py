"""What people, workers and flows need to find the servers, as variables of the environment."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping

from infra.stack.settings import ADMINISTRATOR, BUCKET, REGION, SERVICE_ACCOUNT, Settings


def for_people(settings: Settings, services: Collection[str]) -> dict[str, str]:
    """The variables that lead to these services, with the service account's passwords."""
    keys = settings.keys
    known = {
        "postgres": {"SLIPWAY_ROLLOUTS_URL": settings.postgres_url("slipway", "slipway")},
        "seaweedfs": {
            "AWS_ACCESS_KEY_ID": keys["s3-slipway-id"],
            "AWS_SECRET_ACCESS_KEY": keys["s3-slipway"],
            "AWS_ENDPOINT_URL": settings.http("seaweedfs"),
            "AWS_DEFAULT_REGION": REGION,
            "MLFLOW_S3_ENDPOINT_URL": settings.http("seaweedfs"),
            "SLIPWAY_BUCKET": BUCKET,
        },
        "mlflow": {
            "MLFLOW_TRACKING_URI": settings.http("mlflow"),
            "MLFLOW_TRACKING_USERNAME": SERVICE_ACCOUNT,
            "MLFLOW_TRACKING_PASSWORD": keys["mlflow-slipway"],
        },
        "prefect-api": {
            "PREFECT_API_URL": f"{settings.http('prefect-api')}/api",
            "PREFECT_API_AUTH_STRING": settings.prefect_auth_string,
        },
        "receiver": {
            "SLIPWAY_WEBHOOK_URL": f"{settings.http('receiver')}/mlflow",
            "SLIPWAY_WEBHOOK_SECRET": keys["webhook"],
        },
    }
    return {name: value for service, own in known.items() if service in services for name, value in own.items()}


def for_the_administrator(settings: Settings) -> dict[str, str]:
    """Who may make users in MLflow."""
    return {"MLFLOW_ADMIN_USERNAME": ADMINISTRATOR, "MLFLOW_ADMIN_PASSWORD": settings.keys["mlflow-admin"]}


def as_exports(variables: Mapping[str, str]) -> str:
    """The text of a file to be sourced by a shell."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
