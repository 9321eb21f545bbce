"""The servers of a team together: in the order of what needs what, and at once where nothing does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from infra.stack import mlflow_server, postgres, prefect_servers, redis_server, seaweedfs, workers
from infra.stack.environment import as_exports, for_people, for_the_administrator
from infra.stack.keys import kept_keys
from infra.stack.layout import Layout, write_private
from infra.stack.services import Recipe, Service
from infra.stack.settings import Settings
from slipway.errors import BadInputError, InfrastructureError, SlipwayError, nearest

SERVICES = ("postgres", "redis", "seaweedfs", "mlflow", "prefect-api", "prefect-services", "receiver", "worker")
LOCK_SECONDS = 300


class Stack:
    """The servers of the project in ``root``; a context manager that leaves no process behind.

    ``ports`` are by listener, those left out as they were the last time, or the defaults; ``only`` names the services
    wanted, and what they need comes too; ``extra`` adds to the environment of single services.

    Raises:
        BadInputError: a service or a port is none.
    """

    def __init__(
        self,
        root: Path,
        ports: Mapping[str, int] | None = None,
        *,
        only: Iterable[str] | None = None,
        extra: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        wanted = SERVICES if only is None else tuple(only)
        for name in (*wanted, *(extra or {})):
            if name not in SERVICES:
                raise BadInputError(f"there is no service {name!r}{nearest(name, SERVICES)}: {', '.join(SERVICES)}")
        self._layout = Layout(root)
        self._layout.make()
        ports = self._layout.ports(ports)
        self.ports: dict[str, int] = ports
        keys = kept_keys(self._layout.folder / "keys.json")
        self._settings = Settings(self._layout, ports, keys, extra or {})
        recipes = self._recipes()
        self._wanted = closure(wanted, {name: recipe.needs for name, recipe in recipes.items()})
        self._services = {name: Service(recipe, self._layout) for name, recipe in recipes.items()}

    def __enter__(self) -> Self:
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    @property
    def environment_file(self) -> Path:
        """Where ``up`` writes the environment, to be sourced."""
        return self._layout.environment_file

    @property
    def environment(self) -> dict[str, str]:
        """What people, workers and flows need to find the services."""
        return for_people(self._settings, self._wanted)

    @property
    def admin_environment(self) -> dict[str, str]:
        """Who administers MLflow."""
        return for_the_administrator(self._settings)

    @property
    def services(self) -> list[Service]:
        """Those wanted, in the order in which they start."""
        return [self._services[name] for name in SERVICES if name in self._wanted]

    def service(self, name: str) -> Service:
        """One of them.

        Raises:
            BadInputError: it is none of those wanted.
        """
        if name not in self._wanted:
            raise BadInputError(f"service {name!r} is none of this stack's: {', '.join(self._wanted)}")
        return self._services[name]

    def up(self, tell: Callable[[str], None] = lambda _: None) -> None:
        """Start what does not run yet, and return when all of it answers.

        Raises:
            BadInputError: a port is taken, a program is missing, or another command is at work on this stack.
            InfrastructureError: a service did not start; those that did still run.
        """
        with self._alone():
            self._check_moves()
            self._layout.keep_ports(self.ports)
            leads_to = [name for name, one in self._services.items() if name in self._wanted or one.running]
            write_private(self._layout.environment_file, as_exports(for_people(self._settings, leads_to)))
            write_private(self._layout.admin_file, as_exports(self.admin_environment))
            for wave in waves({service.name: service.recipe.needs for service in self.services}):
                self._each([self._services[name] for name in wave], _start, tell)

    def down(self, tell: Callable[[str], None] = lambda _: None) -> None:
        """End all that was ever started here, those first that need the others; what they keep stays.

        Raises:
            InfrastructureError: a process could not be ended.
        """
        with self._alone():
            for wave in reversed(waves({name: service.recipe.needs for name, service in self._services.items()})):
                self._each([self._services[name] for name in wave], _stop, tell)

    def status(self) -> list[dict[str, Any]]:
        """One row for each service: whether it runs, whether it answers, its pid, port, memory and log."""
        with ThreadPoolExecutor(len(self.services)) as pool:
            return list(pool.map(_row, self.services))

    def _recipes(self) -> dict[str, Recipe]:
        settings = self._settings
        everything = for_people(settings, SERVICES)
        made = (
            postgres.recipe(settings),
            redis_server.recipe(settings),
            seaweedfs.recipe(settings),
            mlflow_server.recipe(settings),
            prefect_servers.api_recipe(settings),
            prefect_servers.services_recipe(settings),
            workers.receiver_recipe(settings, everything),
            workers.worker_recipe(settings, everything),
        )
        return {recipe.name: recipe for recipe in made}

    def _check_moves(self) -> None:
        kept = self._layout.ports(None)
        for service in self._services.values():
            if service.running and any(kept[name] != port for name, port in service.recipe.ports.items()):
                raise BadInputError(
                    f"{service.name} runs on other ports than those asked for; end it first: python -m infra.stack down"
                )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        lock = FileLock(self._layout.folder / "lock")
        try:
            with lock.acquire(timeout=LOCK_SECONDS):
                yield
        except Timeout as error:
            raise BadInputError(
                f"another command is at work on the servers in {self._layout.folder} since {LOCK_SECONDS} s; wait for "
                "its end, or end it"
            ) from error

    def _each(
        self, services: list[Service], do: Callable[[Service, Callable[[str], None]], None], tell: Callable[[str], None]
    ) -> None:
        """Do it to all at once; what failed is raised when all are done."""
        with ThreadPoolExecutor(len(services)) as pool:
            done = [pool.submit(do, service, tell) for service in services]
            try:
                wait(done)
            except BaseException:
                for service in services:
                    service.give_up()
                raise
        failures = [error for one in done if (error := one.exception()) is not None]
        for failure in failures:
            if not isinstance(failure, SlipwayError):
                raise failure
        if failures:
            kind = BadInputError if all(isinstance(one, BadInputError) for one in failures) else InfrastructureError
            raise kind("\n".join(str(one) for one in failures))


def _start(service: Service, tell: Callable[[str], None]) -> None:
    ran = service.running
    service.start()
    tell(f"{service.name}: {'there already' if ran else 'started'}")


def _stop(service: Service, tell: Callable[[str], None]) -> None:
    if service.processes():
        service.stop()
        tell(f"{service.name}: ended")


def _row(service: Service) -> dict[str, Any]:
    processes = service.processes()
    return {
        "service": service.name,
        "state": ("answers" if service.answers else "does not answer") if service.running else "down",
        "pid": service.pid,
        "port": service.recipe.ports.get(service.name),
        "processes": len(processes),
        "memory_mb": round(service.memory_bytes() / 1e6),
        "log": str(service.log_file),
    }


def closure(wanted: Iterable[str], needs: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """Those wanted with all that they need, in the order of ``needs``."""
    found, open_ = set[str](), list(wanted)
    while open_:
        name = open_.pop()
        if name not in found:
            found.add(name)
            open_ += needs[name]
    return tuple(name for name in needs if name in found)


def waves(needs: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Groups of names, each of which needs only what stands in earlier groups or is not among the names.

    Raises:
        ValueError: two need each other.
    """
    left, found = dict(needs), list[list[str]]()
    while left:
        wave = [name for name, wants in left.items() if not set(wants) & left.keys()]
        if not wave:
            raise ValueError(f"need each other: {', '.join(left)}")
        found.append(wave)
        left = {name: wants for name, wants in left.items() if name not in wave}
    return found
