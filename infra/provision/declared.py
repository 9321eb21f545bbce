"""`prefect.yaml`: the deployments of a project, as `prefect deploy` reads it too."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import Field, ValidationError

from slipway.errors import BadInputError
from slipway.records.base import Record

if TYPE_CHECKING:
    from prefect import Flow

FILE = "prefect.yaml"


class Schedule(Record):
    """When a deployment runs by itself; known again by its slug."""

    slug: str
    cron: str
    timezone: str = "UTC"
    active: bool = True
    parameters: dict[str, Any] = Field(default_factory=dict)


class Pool(Record):
    """Whose workers run it, and what its job gets that others of the pool do not."""

    name: str
    job_variables: dict[str, Any] | None = None


class Deployment(Record):
    """A flow by its module path, so that the worker's own installation is what runs."""

    name: str
    entrypoint: str
    work_pool: Pool
    description: str | None = None
    tags: tuple[str, ...] = ()
    parameters: dict[str, Any] = Field(default_factory=dict)
    schedules: tuple[Schedule, ...] = ()


class Declared(Record):
    """The file."""

    deployments: tuple[Deployment, ...]
    pull: tuple[()] = ()  # none: there is no code to be fetched


def read_declared(root: Path) -> Declared:
    """The deployments that `prefect.yaml` in ``root`` names.

    Raises:
        BadInputError: there is no such file, or it says what this set-up does not know.
    """
    file = root / FILE
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise BadInputError(f"{file} names no deployments; copy the file from Slipway's repository")
        return Declared.model_validate({name: found[name] for name in Declared.model_fields if name in found})
    except FileNotFoundError:
        raise BadInputError(
            f"{root} holds no {FILE}; work in the project's directory, or copy the file from Slipway's repository"
        ) from None
    except OSError as error:
        raise BadInputError(f"cannot read {file}: {error.strerror}; copy the file from Slipway's repository") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInputError(f"{file} is no YAML: {' '.join(str(error).split())}; correct it") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInputError(f"{file}: {where}: {first['msg']}; correct it") from error


def load(entrypoint: str, parameters: Mapping[str, Any]) -> Flow[..., Any]:
    """The flow at a module path such as ``flows.audit.audit``, which takes ``parameters``.

    Raises:
        BadInputError: there is none, or it takes no such parameter.
    """
    from prefect import Flow

    module, _, attribute = entrypoint.rpartition(".")
    try:
        flow = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadInputError(
            f"{entrypoint} is no flow of this installation: {error}; correct {FILE}, or install Slipway with its flows"
        ) from error
    if not isinstance(flow, Flow):
        raise BadInputError(f"{entrypoint} is a {type(flow).__name__}, not a flow; correct {FILE}")
    if unknown := parameters.keys() - (known := inspect.signature(flow.fn).parameters.keys()):
        raise BadInputError(
            f"{entrypoint} takes no {', '.join(sorted(unknown))}, only {', '.join(known)}; correct {FILE}"
        )
    return flow
