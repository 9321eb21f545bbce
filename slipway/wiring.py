"""The one place where parameters and the environment become concrete objects."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import slipway
from slipway.config import Params, TargetParams, load_params
from slipway.engines import availabilities, check_settings, described_engine
from slipway.errors import BadInputError, InfrastructureError, SlipwayError, UnsupportedError
from slipway.measure import hardware
from slipway.measure.metrics import metric
from slipway.records import CandidateSpec, Form, Hardware
from slipway.stores.mlflow_border import without_password
from slipway.stores.mlflow_connection import embedded
from slipway.stores.mlflow_registry import MlflowRegistry
from slipway.stores.objects import ObjectStore
from slipway.stores.registry import parse_model_uri
from slipway.stores.shared_objects import SharedObjects, reachable
from slipway.stores.tracking import verify
from slipway.variants import variant

if TYPE_CHECKING:
    from slipway.rollout.store.rollouts import RolloutStore

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
        uri = without_password(self.registry.tracking_uri)
        return uri if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri.replace(f'{self.root}/', '')}"

    @property
    def rollouts(self) -> RolloutStore:
        """The store of rollouts that the environment names, else one of the project's own."""
        from slipway.rollout.store.database import URL_VARIABLE
        from slipway.rollout.store.rollouts import RolloutStore

        self.state.mkdir(exist_ok=True)
        return RolloutStore(os.environ.get(URL_VARIABLE) or self.state / "rollouts.db")

    def share(self, name: str) -> SharedObjects:
        """A new place for what hosts hand each other during a release of the model ``name``."""
        return SharedObjects.new(*embedded(self.state), self.root, name)

    def shared(self, run_id: str) -> SharedObjects:
        """The place ``run_id``, which a release opened, perhaps on another host."""
        return SharedObjects(self.registry.tracking_uri, None, run_id)


def workshop(root: Path | None = None, tracking_uri: str | None = None) -> Workshop:
    """The stores of the project in ``root`` (default: the current directory), as the environment chooses them.

    A worker takes part in a release that was started elsewhere and records in the MLflow store ``tracking_uri``.

    Raises:
        BadInputError: nothing can be kept there, or the store of the release is out of reach.
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
    if tracking_uri is not None:
        uri, artifacts = reachable(tracking_uri, os.environ.get("MLFLOW_TRACKING_URI")), None
    registry = MlflowRegistry(uri, artifacts, Path(slipway.__file__).parent / "serving" / "pyfunc_engine.py")
    return Workshop(root=root, objects=ObjectStore(state / "objects"), registry=registry)


def embed_prefect(root: Path | None = None) -> None:
    """Keep Prefect inside the project, unless the environment already says where it lives; in either case quiet.

    Call it before prefect is imported: it reads its settings at import.
    """
    state = (root or Path.cwd()).resolve() / STATE_DIRECTORY
    defaults = {
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        # A server is told every line, with the traceback of a refusal; a person reads what the command says itself.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    }
    if not {"PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_HOME"} & os.environ.keys():
        # The root logger's is for the libraries' warnings, which Prefect would print between the lines of progress.
        with contextlib.suppress(OSError):  # Prefect makes its home, but no directory above it
            state.mkdir(exist_ok=True)
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
        return _told_if_down(entry.load())
    raise InfrastructureError(f"flow {name!r} is not installed; install Slipway with its flows: pip install slipway")


def _told_if_down(flow: Callable[..., Any]) -> Callable[..., Any]:
    """``flow``, which tells in Slipway's own words that Prefect's server does not answer, or not to us."""

    @functools.wraps(flow)
    def run(*args: Any, **named: Any) -> Any:
        try:
            return flow(*args, **named)
        except Exception as error:
            told = _told_of_prefect(error)
            if told is None:
                raise
            raise told from error

    return run


def _told_of_prefect(error: Exception) -> SlipwayError | None:
    """What is told where Prefect's client could not begin; None for every other error."""
    without = "or unset PREFECT_API_URL to run without a server"
    if isinstance(error, RuntimeError) and str(error).startswith("Failed to reach API"):
        return InfrastructureError(
            f"Prefect did not answer: {error}; check that its server is up and PREFECT_API_URL is right, {without}"
        )
    if type(error).__name__ == "PrefectHTTPStatusError" and "401 Unauthorized" in str(error):
        return BadInputError(
            "Prefect asks who you are, or does not accept what it was shown; set PREFECT_API_AUTH_STRING to the "
            f"NAME:PASSWORD that its server was given, {without}"
        )
    return None


def check_targets(params: Params, only: tuple[str, ...] = ()) -> Params:
    """``params`` reduced to the targets asked for, after checking what can be checked before any work.

    Of a target with a work pool that is little: its hardware is elsewhere.

    Raises:
        BadInputError: an unknown target, engine, setting or metric, more threads than CPUs, or a variant without the
            data that it needs.
        UnsupportedError: an engine is not available here.
    """
    for name in only:
        if name not in params.targets:
            raise BadInputError(f"target {name!r} is not in the parameters; known: {', '.join(params.targets)}")
    targets = {name: target for name, target in params.targets.items() if not only or name in only}
    for name, target in targets.items():
        if target.work_pool is None:
            for runtime in target.engines:
                check_settings(runtime, target.settings.get(runtime, {}))
            check_threads(name, target)
        else:
            check_available_settings(target)
    metric(params.accuracy.metric)
    for name in params.variants:
        kind = variant(name)
        for needed, what in ((kind.needs_calibration, "calibration"), (kind.needs_training, "training")):
            if needed and getattr(params.data, what) is None:
                raise BadInputError(f"variant {name} needs {what} data: set data.{what} to a DVC-tracked directory")
    return params.model_copy(update={"targets": targets})


def check_targets_here(params: Params, only: tuple[str, ...] = ()) -> Params:
    """As `check_targets`, for what runs on this host alone.

    Raises:
        BadInputError: also, a target has a work pool.
    """
    checked = check_targets(params, only)
    for name, target in checked.targets.items():
        if target.work_pool is not None:
            raise BadInputError(
                f"target {name!r} asks for work pool {target.work_pool!r}, and single steps run on this host alone; "
                "run `slipway release`, or set work_pool: null"
            )
    return checked


def check_available_settings(target: TargetParams) -> None:
    """Check what is set for the engines that are available here; the others' candidates are SKIPPED where they run.

    Raises:
        BadInputError: an unknown engine or setting.
    """
    for runtime in target.engines:
        with contextlib.suppress(UnsupportedError):
            check_settings(runtime, target.settings.get(runtime, {}))


def check_threads(name: str, target: TargetParams) -> None:
    """Check that this host has the CPUs for ``target``.

    Raises:
        BadInputError: it asks for more threads.
    """
    if max(target.threads) > (cpus := len(os.sched_getaffinity(0))):
        raise BadInputError(
            f"target {name!r} asks for {max(target.threads)} threads, this host gives {cpus} CPUs; ask for fewer"
        )


def form_of(engine: str) -> Form:
    """The form that an engine builds from, whether or not it is available here."""
    return described_engine(engine).form


def wanted_forms(specs: Iterable[CandidateSpec]) -> list[tuple[str, Form]]:
    """The variants and forms that ``specs`` are built from, here or elsewhere; none for those that engines refuse."""
    built = (spec for spec in specs if spec.variant not in described_engine(spec.engine).refused)
    return sorted({(spec.variant, form_of(spec.engine)) for spec in built})


def training_data(params: Params) -> Path | None:
    """The training data, if a variant learns from them."""
    return params.data.training if any(variant(name).needs_training for name in params.variants) else None


def host_hardware() -> Hardware:
    """The hardware of this host, with the versions of the engines' runtimes."""
    return hardware.describe({a.engine: a.version for a in availabilities() if a.available and a.version})


def unknown_hardware() -> Hardware:
    """The hardware of a target that nothing has run on."""
    return Hardware(
        fingerprint="unknown", cpu="unknown", isa=(), cores=0, memory_bytes=0, gpu=None, machine="unknown", runtimes={}
    )


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


def current_data_md5(params: Params, model: str) -> str | None:
    """The md5 of the test data as it lies here now; None where it does not, or the parameters are not about ``model``.

    Raises:
        TamperedError: the data differs from what is tracked.
    """
    if parse_model_uri(params.model)[0] != model or not params.data.test.exists():
        return None
    return verify(params.data.test).md5


def serving_host(params: Params, model: str, target: str) -> Hardware | None:
    """This host where the engines of the model's target are served here; None where that is not known."""
    described = params.targets.get(target)
    if parse_model_uri(params.model)[0] != model or described is None or described.work_pool is not None:
        return None
    return host_hardware()


def today(params: Params, model: str, target: str) -> tuple[str | None, Hardware | None]:
    """What a promotion holds evidence against: `current_data_md5` and `serving_host`."""
    return current_data_md5(params, model), serving_host(params, model, target)


def project_params(root: Path) -> dict[str, Path]:
    """The files that describe the releases of the project in ``root``, by model: `params.yaml` and `params/*.yaml`.

    Raises:
        BadInputError: there is none, one is wrong, or two describe releases of the same model.
    """
    found: dict[str, Path] = {}
    for file in [root / "params.yaml", *sorted((root / "params").glob("*.yaml"))]:
        if not file.is_file():
            continue
        name = parse_model_uri(load_params(file).model)[0]
        if name in found:
            raise BadInputError(f"{found[name]} and {file} both describe releases of {name}; keep one of them")
        found[name] = file
    if not found:
        raise BadInputError(f"{root} holds no params.yaml and no params/*.yaml; work in the project's directory")
    return found


def project_file(root: Path, file: Path) -> Path:
    """The whole path of a params file of the project in ``root``, relative to which ``file`` is told.

    Raises:
        BadInputError: it is neither `params.yaml` nor in `params/`; who asks for a run does not choose other terms.
    """
    found, root = (root / file).resolve(), root.resolve()
    if found != root / "params.yaml" and found.parent != root / "params":
        raise BadInputError(f"{file} is no file of the project in {root}; name one of its params.yaml, params/*.yaml")
    return found
