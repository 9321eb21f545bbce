"""The one place where parameters and the environment become concrete objects."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slipway
from slipway.config import Params
from slipway.engines import availabilities, check_settings
from slipway.errors import BadInputError, InfrastructureError
from slipway.measure import hardware
from slipway.measure.metrics import metric
from slipway.records import Hardware
from slipway.stores.mlflow_connection import embedded
from slipway.stores.mlflow_registry import MlflowRegistry
from slipway.stores.objects import ObjectStore
from slipway.variants import variant

STATE_DIRECTORY = ".slipway"


@dataclass(frozen=True)
class Workshop:
    """Where a project's bytes and records lie."""

    root: Path
    objects: ObjectStore
    registry: MlflowRegistry

    @property
    def state(self) -> Path:
        """The directory of all that is not the person's own."""
        return self.root / STATE_DIRECTORY

    @property
    def look(self) -> str:
        """Where to look at what is recorded: MLflow's page, or the command that starts one."""
        uri = self.registry.tracking_uri
        return uri if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri.replace(f'{self.root}/', '')}"


def workshop(root: Path | None = None) -> Workshop:
    """The stores of the project in ``root`` (default: the current directory), as the environment chooses them.

    Raises:
        BadInputError: nothing can be kept there.
    """
    root = (root or Path.cwd()).resolve()
    state = root / STATE_DIRECTORY
    try:
        state.mkdir(exist_ok=True)
    except OSError as error:
        raise BadInputError(
            f"cannot make {state}: {error.strerror}; work in a directory that can be written to"
        ) from error
    uri, artifacts = embedded(state)
    registry = MlflowRegistry(uri, artifacts, Path(slipway.__file__).parent / "serving" / "pyfunc_engine.py")
    return Workshop(root=root, objects=ObjectStore(state / "objects"), registry=registry)


def embed_prefect(root: Path | None = None) -> None:
    """Keep Prefect inside the project and quiet, unless the environment already says where it lives.

    Call it before prefect is imported: it reads its settings at import.
    """
    state = (root or Path.cwd()).resolve() / STATE_DIRECTORY
    defaults = {
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    }
    if not {"PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_HOME"} & os.environ.keys():
        # The root logger's is for the libraries' warnings, which Prefect would print between the lines of progress.
        levels = {"PREFECT_LOGGING_LEVEL": "CRITICAL", "PREFECT_LOGGING_ROOT_LEVEL": "ERROR"}
        defaults |= {"PREFECT_HOME": str(state / "prefect"), **levels}
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def load_flow(name: str) -> Callable[..., Any]:
    """The flow ``name``, found by entry point: flows sit above this library, which never imports them.

    Raises:
        InfrastructureError: this installation has no such flow.
    """
    embed_prefect()
    for entry in importlib.metadata.entry_points(group="slipway.flows", name=name):
        return entry.load()  # type: ignore[no-any-return]
    raise InfrastructureError(f"flow {name!r} is not installed; install Slipway with its flows: pip install slipway")


def check_targets(params: Params, only: tuple[str, ...] = ()) -> Params:
    """``params`` reduced to the targets asked for, after checking what can be checked before any work.

    Raises:
        BadInputError: an unknown target, engine or metric, more threads than CPUs, a target on a work pool, or
            a variant without the data that it needs.
    """
    for name in only:
        if name not in params.targets:
            raise BadInputError(f"target {name!r} is not in the parameters; known: {', '.join(params.targets)}")
    targets = {name: target for name, target in params.targets.items() if not only or name in only}
    for name, target in targets.items():
        for runtime in target.engines:
            check_settings(runtime, target.settings.get(runtime, {}))
        if target.work_pool is not None:
            raise BadInputError(
                f"target {name!r} asks for work pool {target.work_pool!r}, but this version builds on this host alone; "
                "set work_pool: null"
            )
        if max(target.threads) > (cpus := len(os.sched_getaffinity(0))):
            raise BadInputError(
                f"target {name!r} asks for {max(target.threads)} threads, this host gives {cpus} CPUs; ask for fewer"
            )
    metric(params.accuracy.metric)
    for name in params.variants:
        kind = variant(name)
        for needed, what in ((kind.needs_calibration, "calibration"), (kind.needs_training, "training")):
            if needed and getattr(params.data, what) is None:
                raise BadInputError(f"variant {name} needs {what} data: set data.{what} to a DVC-tracked directory")
    return params.model_copy(update={"targets": targets})


def training_data(params: Params) -> Path | None:
    """The training data, if a variant learns from them."""
    return params.data.training if any(variant(name).needs_training for name in params.variants) else None


def host_hardware() -> Hardware:
    """The hardware of this host, with the versions of the engines' runtimes."""
    return hardware.describe({a.engine: a.version for a in availabilities() if a.available and a.version})


def code_revision(root: Path) -> str:
    """The git revision of the project, marked ``-dirty`` if it has changes; outside git, Slipway's version.

    ``dvc.lock`` does not count: it is what a run of the same code leaves behind.
    """
    revision = _git(root, "rev-parse", "HEAD")
    if revision is None:
        return f"slipway {slipway.__version__}"
    changes = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ":/", ":(exclude,top)dvc.lock")
    return f"{revision}-dirty" if changes else revision


def _git(root: Path, *arguments: str) -> str | None:
    """What git answers in ``root``; None where it cannot, or where there is no git."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30, check=False
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
