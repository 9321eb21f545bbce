"""The script with which PostgreSQL's image makes the databases of the compose file, run against a real server."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from infra.stack.postgres import DATABASES
from tests.contract.rollout_state.postgres import PASSWORD, Postgres

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SCRIPT = Path(__file__).parents[3] / "infra" / "postgres" / "databases.sh"
# With what a shell, psql and SQL could each take for something else.
PASSWORDS = {role: f'it\'s $1 \\ :{role} "x"' for role in DATABASES}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server in which the script has run, as a URL without user and database."""
    with Postgres() as postgres:
        place = psycopg.conninfo.conninfo_to_dict(postgres.url())
        own = {
            "PATH": f"{postgres._bin}:{os.environ['PATH']}",
            "POSTGRES_USER": "owner",
            "PGHOST": str(place["host"]),
            "PGPORT": str(place["port"]),
            "PGPASSWORD": PASSWORD,
        }
        passwords = {f"{role.upper()}_DATABASE_PASSWORD": word for role, word in PASSWORDS.items()}
        subprocess.run(["sh", str(SCRIPT)], env=own | passwords, check=True)
        yield f"host={place['host']} port={place['port']}"


@pytest.mark.parametrize(("role", "other"), list(itertools.product(DATABASES, repeat=2)))
def test_each_owner_gets_into_its_own_databases_alone(server: str, role: str, other: str) -> None:
    for database in DATABASES[other]:
        if role == other:
            with psycopg.connect(server, user=role, password=PASSWORDS[role], dbname=database) as connection:
                connection.execute("CREATE TABLE mine (id int)")
            continue
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(server, user=role, password=PASSWORDS[role], dbname=database)


def test_another_password_opens_nothing(server: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(server, user="slipway", password=PASSWORDS["mlflow"], dbname="slipway")
