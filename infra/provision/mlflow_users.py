"""Who may do what in MLflow: releases register engines, approvers decide on them, the others look."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable
from typing import NamedTuple

from infra.provision.mlflow_api import MlflowApi
from infra.provision.things import Change
from slipway.errors import BadInputError

LEVELS = ("NO_PERMISSIONS", "READ", "USE", "EDIT", "MANAGE")
MODEL, EXPERIMENT = "registered_model", "experiment"


class Account(NamedTuple):
    """A user's name and password."""

    name: str
    password: str


def ensure_service_account(admin: MlflowApi, account: Account) -> Change:
    """Make the account of releases; its password is the one that the workers are given."""
    named = {"username": account.name, "password": account.password}
    if admin.find("2.0/mlflow/users/get", username=account.name) is None:
        admin.post("2.0/mlflow/users/create", named)
        return Change.CREATED
    try:
        admin.as_user(*account).me()
    except BadInputError:
        admin.patch("2.0/mlflow/users/update-password", named)
        return Change.CHANGED
    return Change.THERE


def ensure_approver(admin: MlflowApi, name: str, tell: Callable[[str], None]) -> Change:
    """Make a person's account; the password of one that is there is the person's own affair."""
    if admin.find("2.0/mlflow/users/get", username=name) is not None:
        return Change.THERE
    variable = password_variable(name)
    given = os.environ.get(variable)
    password = given or secrets.token_urlsafe(18)
    admin.post("2.0/mlflow/users/create", {"username": name, "password": password})
    if not given:
        tell(f"MLflow's password of {name}, told this once: {password}")
    return Change.CREATED


def password_variable(name: str) -> str:
    """The environment variable with the password that a person starts with."""
    return "SLIPWAY_PASSWORD_" + re.sub("[^A-Z0-9]", "_", name.upper())


def ensure_model(service: MlflowApi, admin: MlflowApi, name: str) -> Change:
    """Make a registered model without versions; who makes it may manage it, and only the other sees that it is not."""
    if admin.find("2.0/mlflow/registered-models/get", name=name) is not None:
        return Change.THERE
    service.post("2.0/mlflow/registered-models/create", {"name": name})
    return Change.CREATED


def experiment_id(api: MlflowApi, name: str) -> str | None:
    """The id of the experiment, if there is one."""
    found = api.find("2.0/mlflow/experiments/get-by-name", experiment_name=name)
    return None if found is None else str(found["experiment"]["experiment_id"])


def ensure_experiment(service: MlflowApi, admin: MlflowApi, name: str) -> Change:
    """Make an experiment; as with a model."""
    if experiment_id(admin, name) is not None:
        return Change.THERE
    service.post("2.0/mlflow/experiments/create", {"name": name})
    return Change.CREATED


def ensure_permission(admin: MlflowApi, user: str, kind: str, resource: str, level: str) -> Change:
    """Let ``user`` do at least ``level`` with the resource; what somebody may do beyond that stays.

    Raises:
        BadInputError: somebody has denied it to them, which is not this program's to undo.
    """
    named = {"username": user, "resource_type": kind, "resource_id": resource}
    found = (admin.find("3.0/mlflow/users/permissions/get", **named) or {}).get("permission", LEVELS[0])
    if found not in LEVELS:
        raise BadInputError(
            f"MLflow has {found} for {user} on {kind} {resource}, and {level} is asked for; revoke it in MLflow, or do "
            f"not name {user}"
        )
    if LEVELS.index(found) >= LEVELS.index(level):
        return Change.THERE
    admin.post("3.0/mlflow/users/permissions/grant", named | {"permission": level})
    return Change.CREATED if found == LEVELS[0] else Change.CHANGED
