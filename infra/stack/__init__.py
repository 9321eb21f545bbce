"""A team's servers on one host without Docker: PostgreSQL, Redis, SeaweedFS, MLflow, Prefect, receiver and worker."""

from infra.stack.layout import free_ports
from infra.stack.services import Service
from infra.stack.stack import SERVICES, Stack

__all__ = ["SERVICES", "Service", "Stack", "free_ports"]
