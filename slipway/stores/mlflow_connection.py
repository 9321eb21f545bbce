"""One MLflow store: a look whether it is there, runs that always end, and models that are logged whole."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import socket
import sqlite3
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from filelock import FileLock

from slipway.errors import BadInputError, InfrastructureError
from slipway.stores.mlflow_border import RETRIES_VARIABLE, at_border, import_mlflow, without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import Model, ModelSignature

    from slipway.records import Signature, TensorSpec

CHECK_SECONDS = 3.0
CURRENT_USER = "/api/2.0/mlflow/users/current"  # of MLflow's basic-auth app
_SETTINGS = threading.RLock()  # MLflow's, which are the process's
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}


def embedded(root: Path) -> tuple[str, Path | None]:
    """Tracking URI and artifact root: what MLFLOW_TRACKING_URI names, else SQLite and files under ``root``."""
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return uri, None
    return f"sqlite:///{root.resolve()}/mlflow.db", root.resolve() / "mlartifacts"


class Connection:
    """One MLflow store; connects (and creates the database) at first use, after a look whether it is there at all."""

    def __init__(self, tracking_uri: str, artifact_root: Path | None) -> None:
        self.tracking_uri = tracking_uri
        self._artifact_root = artifact_root

    @functools.cached_property
    def client(self) -> MlflowClient:
        """The client of this store, independent of MLflow's global settings. Raises as `check` does."""
        self.check()
        import_mlflow()
        from mlflow import MlflowClient

        if self._artifact_root is not None:
            _make_whole(Path(self.tracking_uri.partition(":///")[2]))
        return MlflowClient(self.tracking_uri, self.tracking_uri)

    def check(self) -> None:
        """Ask the store for a sign of life; seconds at most.

        Raises:
            BadInputError: the URI names no store that could hold registered models.
            InfrastructureError: no answer; MLflow's own client would retry for minutes.
        """
        uri, told = self.tracking_uri, without_password(self.tracking_uri)
        try:
            parts = urlsplit(uri)
            scheme, address = parts.scheme.partition("+")[0], (parts.hostname, parts.port)
        except ValueError:
            scheme, address = "", (None, None)
        if (not scheme and not uri.startswith("databricks")) or (scheme in PORTS and not address[0]):
            raise BadInputError(
                f"{told!r} is no URI of a store for registered models; set MLFLOW_TRACKING_URI to http://HOST:PORT, "
                "sqlite:///FILE or a database, or unset it for the embedded store"
            )
        try:
            if scheme in {"http", "https"}:
                with contextlib.suppress(urllib.error.HTTPError):  # an answer, even a refusal, is a sign of life
                    bare = re.sub("(?<=://)[^/]*@", "", uri).rstrip("/")  # urllib takes a name for part of the host
                    urllib.request.urlopen(f"{bare}/health", timeout=CHECK_SECONDS).close()  # noqa: S310 - scheme checked above
            elif scheme == "sqlite":
                _check_sqlite(Path(uri.partition(":///")[2]))
            elif scheme in PORTS:
                socket.create_connection((address[0], address[1] or PORTS[scheme]), CHECK_SECONDS).close()
        except (OSError, sqlite3.Error, HTTPException) as error:
            raise InfrastructureError(
                f"cannot reach MLflow at {told}: {error}; start it, correct MLFLOW_TRACKING_URI, or unset it for the "
                "embedded store"
            ) from error

    @at_border
    def user(self) -> str | None:
        """The name by which the server has authenticated whoever asks; None where it asks nobody who they are.

        Raises:
            BadInputError: it does not accept the name and the password.
        """
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request, verify_rest_response

        if urlsplit(self.tracking_uri).scheme not in {"http", "https"}:
            return None
        self.check()
        known_as = get_default_host_creds(self.tracking_uri)  # type: ignore[no-untyped-call]
        answer = http_request(known_as, CURRENT_USER, "GET")  # type: ignore[no-untyped-call]
        if answer.status_code == HTTPStatus.UNAUTHORIZED:
            verify_rest_response(answer, CURRENT_USER)  # raises
        try:
            return str(answer.json()["user"]["username"])
        except (ValueError, KeyError, TypeError):  # a server without that app
            return None

    def _try_to(self, tidy: Callable[[], object]) -> None:
        """Tidy up after an error, which nothing that fails here may hide or delay by more than seconds."""
        from mlflow.exceptions import MlflowException

        with contextlib.suppress(InfrastructureError, MlflowException, OSError):
            self.check()
            tidy()

    def experiment(self, name: str) -> str:
        """The experiment's id; it is created when missing."""
        from mlflow.exceptions import MlflowException

        if found := self.client.get_experiment_by_name(name):
            return str(found.experiment_id)
        location = self._artifact_root.resolve().as_uri() if self._artifact_root else None
        try:
            return str(self.client.create_experiment(name, artifact_location=location))
        except MlflowException:
            if found := self.client.get_experiment_by_name(name):  # another process was first
                return str(found.experiment_id)
            raise

    @contextlib.contextmanager
    def run(self, experiment: str, name: str, tags: Mapping[str, str]) -> Iterator[str]:
        """A run that ends FINISHED, or FAILED when anything is raised inside."""
        run_id: str = self.client.create_run(experiment, run_name=name, tags=dict(tags)).info.run_id
        try:
            yield run_id
        except BaseException:
            self._try_to(lambda: self.client.set_terminated(run_id, "FAILED"))
            raise
        self.client.set_terminated(run_id, "FINISHED")

    def log_model(
        self,
        run_id: str,
        name: str,
        write: Callable[[str, Model], None],
        *,
        tags: Mapping[str, str],
        params: Mapping[str, str],
        model_type: str,
    ) -> str:
        """Log what ``write(directory, metadata)`` saves as a LoggedModel of the run; return its id."""
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model

        experiment = self.client.get_run(run_id).info.experiment_id
        model = self.client.create_logged_model(
            experiment, name, source_run_id=run_id, tags=dict(tags), params=dict(params), model_type=model_type
        )
        model_id: str = model.model_id
        try:
            with tempfile.TemporaryDirectory() as scratch:
                directory = str(Path(scratch) / "model")
                write(directory, Model(model.artifact_location, run_id, model_uuid=model_id, model_id=model_id))
                self.client.log_model_artifacts(model_id, directory)
            self.client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
        except BaseException:
            self._try_to(lambda: self.client.finalize_logged_model(model_id, "FAILED"))
            raise
        self.client.finalize_logged_model(model_id, "READY")
        return model_id

    def create_version(self, name: str, model_id: str, run_id: str | None, tags: Mapping[str, str]) -> str:
        """A new version of the registered model ``name``, which is created when missing, with its tags at once."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"models:/{model_id}"
        with _named(self.tracking_uri), _sent_once():
            version = self.client.create_model_version(name, source, run_id, tags=dict(tags), model_id=model_id)
        return str(version.version)

    def versions(self, name: str, tag: tuple[str, str] | None = None) -> list[ModelVersion]:
        """The versions of a registered model, newest first; those with the tag, if one is given."""
        condition = f" and tags.`{tag[0]}` = '{tag[1]}'" if tag else ""
        return _all_pages(
            lambda token: self.client.search_model_versions(
                f"name = '{name}'{condition}", order_by=["version_number DESC"], page_token=token
            )
        )

    def search_runs(self, experiment: str, condition: str) -> list[Any]:
        """The runs that meet MLflow's filter ``condition``, newest first."""
        return _all_pages(
            lambda token: self.client.search_runs(
                [experiment], condition, order_by=["attributes.start_time DESC"], page_token=token
            )
        )

    def download(self, artifact_uri: str, into: Path) -> Path:
        """Copy an artifact file or directory into ``into``; return where it lies."""
        from mlflow.artifacts import download_artifacts

        return Path(download_artifacts(artifact_uri=artifact_uri, dst_path=str(into), tracking_uri=self.tracking_uri))

    def read(self, artifact_uri: str) -> str:
        """The text of an artifact file."""
        with tempfile.TemporaryDirectory() as scratch:
            return self.download(artifact_uri, Path(scratch)).read_text(encoding="utf-8")


def mlflow_signature(signature: Signature) -> ModelSignature:
    """The signature as MLflow spells it."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema
    from mlflow.types import TensorSpec as MlflowTensorSpec

    def schema(specs: tuple[TensorSpec, ...]) -> Schema:
        return Schema([MlflowTensorSpec(np.dtype(spec.dtype), spec.shape, name=spec.name) for spec in specs])

    return ModelSignature(inputs=schema(signature.inputs), outputs=schema(signature.outputs))


def _check_sqlite(file: Path) -> None:
    """Read from the database, which may still be empty: MLflow itself would try for minutes to open a wrong file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(file, timeout=CHECK_SECONDS)) as database:
        database.execute("PRAGMA schema_version")


def _make_whole(file: Path) -> None:
    """Let MLflow make a new database beside ``file``, and put it there when it is whole.

    MLflow cannot go on with one whose making was cut short.
    """
    from mlflow import MlflowClient

    with FileLock(f"{file}.lock"):
        if not file.exists() or file.stat().st_size == 0:
            with tempfile.TemporaryDirectory(dir=file.parent, prefix=".mlflow-") as scratch:
                fresh = Path(scratch) / file.name
                MlflowClient(f"sqlite:///{fresh}").search_experiments(max_results=1)
                fresh.rename(file)


@contextlib.contextmanager
def _named(tracking_uri: str) -> Iterator[None]:
    """Let MLflow's settings name this store for the block: with them its SQL store resolves ``models:/m-...``.

    They are the process's, and what others of it set stays as it was.
    """
    from mlflow.tracking._tracking_service.utils import _use_tracking_uri

    variable = "MLFLOW_TRACKING_URI"
    with _SETTINGS, _restored(variable):
        chosen = os.environ.get(variable)
        with _use_tracking_uri(tracking_uri):
            # MLflow exports it, which would make the embedded store look like one that somebody chose.
            _put(variable, chosen)
            yield


@contextlib.contextmanager
def _sent_once() -> Iterator[None]:
    """Let MLflow's client send no request of the block again: a server that was killed may have done what was asked."""
    with _SETTINGS, _restored(RETRIES_VARIABLE):
        os.environ[RETRIES_VARIABLE] = "0"
        yield


@contextlib.contextmanager
def _restored(variable: str) -> Iterator[None]:
    """Leave the variable of the environment as it was."""
    before = os.environ.get(variable)
    try:
        yield
    finally:
        _put(variable, before)


def _put(variable: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(variable, None)
    else:
        os.environ[variable] = value


def _all_pages(search: Callable[[str | None], Any]) -> list[Any]:
    found: list[Any] = []
    token: str | None = None
    while True:
        page = search(token)
        found.extend(page)
        token = page.token
        if not token:
            return found
