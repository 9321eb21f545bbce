"""Prefect's API and its services, on PostgreSQL and Redis, each restartable without the other."""

from __future__ import annotations

import sys
import time

from infra.stack.answers import answers_http
from infra.stack.layout import HOST
from infra.stack.services import Recipe
from infra.stack.settings import Settings

API, SERVICES = "prefect-api", "prefect-services"
PREFECT = (sys.executable, "-m", "prefect")
# The name that `prefect server services start` gives to its queue of background work.
QUEUE = "prefect"
ANSWER_SECONDS = 5
SIGN_SECONDS = 30  # they sign every 2 s


def api_recipe(settings: Settings) -> Recipe:
    """How the API and its pages are run; it brings the tables up to date first."""
    port = settings.ports[API]
    command = (*PREFECT, "server", "start", f"--host={HOST}", f"--port={port}", "--no-services")
    # Without this a page of any site, in a browser of this host, could try passwords.
    origins = {"PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{HOST}:{port},http://localhost:{port}"}
    return Recipe(
        name=API,
        command=lambda: command,
        answers=lambda _: answers_http(f"{settings.http(API)}/api/health"),
        needs=("postgres", "redis"),
        ports={API: port},
        environment=settings.environment(API, **_environment(settings, API), **origins),
    )


def services_recipe(settings: Settings) -> Recipe:
    """How the scheduler, the automations and the rest are run."""
    return Recipe(
        name=SERVICES,
        command=lambda: (*PREFECT, "server", "services", "start"),
        answers=lambda created: _works(settings, created),
        needs=(API,),  # two at once would both bring the tables up to date
        environment=settings.environment(SERVICES, **_environment(settings, SERVICES)),
    )


def _environment(settings: Settings, service: str) -> dict[str, str]:
    return {
        "PREFECT_HOME": str(settings.layout.data(service)),
        "PREFECT_API_URL": f"{settings.http(API)}/api",
        "PREFECT_SERVER_API_AUTH_STRING": settings.prefect_auth_string,
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": settings.postgres_url("prefect", "prefect", "postgresql+asyncpg"),
        "PREFECT_MESSAGING_BROKER": "prefect_redis.messaging",
        "PREFECT_MESSAGING_CACHE": "prefect_redis.messaging",
        "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
        "PREFECT_SERVER_WORKER_CHANNEL_CLEANUP_QUEUE_STORAGE": "prefect_redis.cleanup_queue",
        "PREFECT_REDIS_MESSAGING_URL": settings.redis_url,
        "PREFECT_REDIS_WORKER_CLEANUP_QUEUE_URL": settings.redis_url,  # it does not read the one above
        "PREFECT_SERVER_DOCKET_URL": settings.redis_url,
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_CLI_PROMPT": "false",
    }


def _works(settings: Settings, created: float) -> bool:
    """Whether these take up work, and not their forerunners only; they listen nowhere, but sign in Redis."""
    import redis

    client = redis.Redis.from_url(settings.redis_url, socket_timeout=ANSWER_SECONDS)
    try:
        return bool(client.zcount(f"{QUEUE}:workers", max(created, time.time() - SIGN_SECONDS), "+inf"))
    except redis.RedisError:
        return False
    finally:
        client.close()
