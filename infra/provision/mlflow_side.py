"""What MLflow's server holds: accounts, registered models, permissions and a webhook, in this order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from infra.provision.mlflow_api import MlflowApi
from infra.provision.mlflow_users import (
    EXPERIMENT,
    MODEL,
    Account,
    ensure_approver,
    ensure_experiment,
    ensure_model,
    ensure_permission,
    ensure_service_account,
    experiment_id,
)
from infra.provision.things import Change, Skip, Thing
from infra.provision.webhooks import ensure_webhook
from slipway.errors import BadInputError
from slipway.stores.mlflow_border import without_password
from slipway.stores.mlflow_releases import EXPERIMENT as RELEASES
from slipway.stores.shared_objects import EXPERIMENT as SHARED

SERVER = "MLFLOW_TRACKING_URI"
SERVICE = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
ADMIN = ("MLFLOW_ADMIN_USERNAME", "MLFLOW_ADMIN_PASSWORD")
HOOK = ("SLIPWAY_WEBHOOK_URL", "SLIPWAY_WEBHOOK_SECRET")


class Released(NamedTuple):
    """A target that a release of ``model`` makes engines for, and the pool that builds them."""

    model: str
    target: str
    pool: str | None

    @property
    def engine(self) -> str:
        """The registered model of its engines."""
        return f"{self.model}.{self.target}"


def mlflow_things(
    environment: Mapping[str, str],
    released: Sequence[Released],
    approvers: Sequence[str],
    tell: Callable[[str], None],
) -> Iterator[Thing]:
    """The things of the server that the environment names; ``tell`` is told a password that was made.

    Raises:
        Skip: it names none.
        BadInputError: the server does not know its administrator.
    """
    uri = environment.get(SERVER, "")
    if not uri.startswith(("http://", "https://")):
        found = f"is {without_password(uri)}, no server's http address" if uri else "is not set"
        raise Skip(f"{SERVER} {found}: users, registered models, permissions, webhook")
    nobody = MlflowApi(uri, None)
    if nobody.guarded():
        yield from _guarded(nobody, environment, released, approvers, tell)
    else:
        why = "this MLflow asks nobody who they are: start it with `--app-name basic-auth` if only some may approve"
        yield Thing("users and permissions", partial(_skip, why))
        for one in released:
            yield Thing(f"registered model {one.engine}", partial(ensure_model, nobody, nobody, one.engine))
        yield _hook(nobody, environment)


def _guarded(
    server: MlflowApi,
    environment: Mapping[str, str],
    released: Sequence[Released],
    approvers: Sequence[str],
    tell: Callable[[str], None],
) -> Iterator[Thing]:
    if missing := _missing(environment, ADMIN):
        raise Skip(f"{missing} not set: users, registered models, permissions, webhook")
    admin = server.as_user(*(environment[name] for name in ADMIN))
    if not admin.me()["is_admin"]:
        raise BadInputError(
            f"{environment[ADMIN[0]]} is no administrator of MLflow at {server.uri}; set {' and '.join(ADMIN)}"
        )
    if missing := _missing(environment, SERVICE):
        yield Thing("account of releases", partial(_skip, f"{missing} not set"))
    else:
        account = Account(*(environment[name] for name in SERVICE))
        yield from _service(admin, account, released)
        yield from _approvers(admin, account, released, approvers, tell)
    yield _hook(admin, environment)


def _service(admin: MlflowApi, account: Account, released: Sequence[Released]) -> Iterator[Thing]:
    service = admin.as_user(*account)
    yield Thing(f"user {account.name}", partial(ensure_service_account, admin, account))
    for model in dict.fromkeys(one.model for one in released):
        if admin.find("2.0/mlflow/registered-models/get", name=model) is not None:
            yield _may(admin, account.name, "READ", MODEL, model, model)
    for one in released:
        yield Thing(f"registered model {one.engine}", partial(ensure_model, service, admin, one.engine))
        yield _may(admin, account.name, "MANAGE", MODEL, one.engine, one.engine)
    for name in (RELEASES, SHARED):
        yield Thing(f"experiment {name}", partial(ensure_experiment, service, admin, name))
        if identity := experiment_id(admin, name):
            yield _may(admin, account.name, "MANAGE", EXPERIMENT, identity, name)


def _approvers(
    admin: MlflowApi,
    account: Account,
    released: Sequence[Released],
    approvers: Sequence[str],
    tell: Callable[[str], None],
) -> Iterator[Thing]:
    for name in approvers:
        if name == account.name:
            raise BadInputError(f"{name} is the account of releases, which approves nothing; name a person")
        yield Thing(f"user {name}", partial(ensure_approver, admin, name, tell))
        for one in released:
            yield _may(admin, name, "EDIT", MODEL, one.engine, one.engine)
        if identity := experiment_id(admin, RELEASES):
            yield _may(admin, name, "READ", EXPERIMENT, identity, RELEASES)


def _may(admin: MlflowApi, user: str, level: str, kind: str, resource: str, called: str) -> Thing:
    name = f"permission of {user}: {level} on {kind.replace('_', ' ')} {called}"
    return Thing(name, partial(ensure_permission, admin, user, kind, resource, level))


def _hook(api: MlflowApi, environment: Mapping[str, str]) -> Thing:
    def ensure() -> Change:
        if missing := _missing(environment, HOOK):
            raise Skip(f"{missing} not set")
        return ensure_webhook(api, *(environment[name] for name in HOOK))

    return Thing("webhook slipway", ensure)


def _missing(environment: Mapping[str, str], names: Sequence[str]) -> str:
    return " and ".join(name for name in names if not environment.get(name))


def _skip(why: str) -> Change:
    raise Skip(why)
