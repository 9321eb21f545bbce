"""Objects that hosts hand each other during one release, as artifacts of an MLflow run that both can reach."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import slipway
from slipway.errors import BadInputError, InfrastructureError, SlipwayError
from slipway.records import Artifact, Record
from slipway.stores.mlflow_border import at_border
from slipway.stores.mlflow_connection import Connection
from slipway.stores.objects import ObjectStore

T = TypeVar("T", bound=Record)

EXPERIMENT = "slipway-shared"  # of its own: people look for releases in the other
OWNER_TAG, SIGN_TAG, ATTEMPT_TAG = "slipway.owner", "slipway.sign", "slipway.attempt"
OPEN = "RUNNING"  # as MLflow calls a run that has not ended
FOLDER = "objects"


class SharedObjects:
    """What one release shares: objects by digest, records by name, and signs of life.

    It is open as long as the release runs; then its files are deleted. ``run_id`` names it on every host.
    """

    def __init__(self, tracking_uri: str, artifact_root: Path | None, run_id: str) -> None:
        self.tracking_uri = tracking_uri
        self.run_id = run_id
        self._connection = Connection(tracking_uri, artifact_root)
        self._here: set[str] = set()
        self._sharing = threading.Lock()  # an object written twice could be read by a host while it is cut short

    @property
    def address(self) -> str:
        """The store's URI for another host, which has its own password for it."""
        return re.sub(r"(?<=://)[^/@]*@", "", self.tracking_uri)

    @classmethod
    def new(cls, tracking_uri: str, artifact_root: Path | None, project: Path, name: str) -> SharedObjects:
        """Open one for the release of ``name``; those that killed releases of ``project`` left open are closed."""
        shared = cls(tracking_uri, artifact_root, "")
        # A path or a name may hold what MLflow's filters cannot quote.
        owner = hashlib.sha256(f"{socket.gethostname()} {project} {name}".encode()).hexdigest()
        shared._begin(owner, name)
        return shared

    @at_border
    def _begin(self, owner: str, name: str) -> None:
        client, experiment = self._connection.client, self._connection.experiment(EXPERIMENT)
        abandoned = f"tags.`{OWNER_TAG}` = '{owner}' and attributes.status = '{OPEN}'"
        for run in self._connection.search_runs(experiment, abandoned):
            self._end(run.info.run_id)
        self.run_id = client.create_run(experiment, run_name=name, tags={OWNER_TAG: owner}).info.run_id

    @at_border
    def share(self, objects: ObjectStore, artifacts: Iterable[Artifact]) -> None:
        """Copy objects of this host's store to where the other hosts find them.

        Raises:
            MissingObjectError, DamagedObjectError: this host's store lost one.
        """
        with self._sharing:
            for artifact in artifacts:
                if artifact.digest not in self._here:
                    self._upload(objects.path(artifact), artifact)
                    self._here.add(artifact.digest)

    def _upload(self, path: Path, artifact: Artifact) -> None:
        client, folder = self._connection.client, f"{FOLDER}/{artifact.digest}"
        if path.is_dir():
            client.log_artifacts(self.run_id, str(path), f"{folder}/{artifact.name}")
        else:
            client.log_artifact(self.run_id, str(path), folder)

    @at_border
    def fetch(self, objects: ObjectStore, artifacts: Iterable[Artifact]) -> None:
        """Copy objects that another host shared into this host's store, unless it has them; each is hashed.

        Raises:
            InfrastructureError: one was not shared, or other bytes arrived.
        """
        for artifact in artifacts:
            if objects.has(artifact):
                continue
            with objects.new_dir() as folder:
                place = f"{FOLDER}/{artifact.digest}/{artifact.name}"
                came = Path(self._connection.client.download_artifacts(self.run_id, place, str(folder)))
                found = objects.put(came, artifact.name).digest
            if found != artifact.digest:
                raise InfrastructureError(
                    f"shared object {artifact.name} should hash to {artifact.digest[:12]}, {found[:12]} arrived from "
                    f"MLflow run {self.run_id}; release again"
                )

    @at_border
    def write(self, name: str, record: Record) -> None:
        """Share a record as ``name``."""
        self._connection.client.log_text(self.run_id, record.model_dump_json(), f"{name}.json")

    @at_border
    def read(self, name: str, kind: type[T]) -> T | None:
        """The record that was shared as ``name``; None if there is none.

        Raises:
            InfrastructureError: another version of Slipway wrote it.
        """
        client = self._connection.client
        if f"{name}.json" not in {file.path for file in client.list_artifacts(self.run_id)}:
            return None
        with tempfile.TemporaryDirectory() as folder:
            text = Path(client.download_artifacts(self.run_id, f"{name}.json", folder)).read_text(encoding="utf-8")
        try:
            return kind.model_validate_json(text)
        except ValueError as error:
            raise InfrastructureError(
                f"{name} cannot be read by Slipway {slipway.__version__}; install this version on both hosts"
            ) from error

    @at_border
    def expect(self, target: str, attempt: int) -> None:
        """Record that ``attempt`` at ``target`` counts from now on, which whoever works on an older one learns."""
        self._connection.check()
        self._connection.client.set_tag(self.run_id, f"{ATTEMPT_TAG}.{target}", str(attempt))

    @at_border
    def sign(self, target: str, attempt: int) -> str | None:
        """The latest sign of life of ``attempt`` at ``target``: another text each time; None before the first."""
        tags: dict[str, str] = self._connection.client.get_run(self.run_id).data.tags
        return tags.get(f"{SIGN_TAG}.{target}-{attempt}")

    @contextlib.contextmanager
    def signs_of_life(
        self, target: str, attempt: int, every_seconds: float, orphaned: Callable[[], None]
    ) -> Iterator[None]:
        """Leave signs of life while the block runs.

        ``orphaned`` is called when the release has ended, or a later attempt at ``target`` counts.
        """
        done = threading.Event()

        def leave() -> None:
            while True:
                with contextlib.suppress(SlipwayError):  # a store that is down for a while ends no work
                    if not self._leave_sign(target, attempt):
                        orphaned()
                if done.wait(every_seconds):
                    return

        thread = threading.Thread(target=leave, name=f"signs of life of {target}-{attempt}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    @at_border
    def _leave_sign(self, target: str, attempt: int) -> bool:
        """Whether the release still waits for this attempt, for which a sign was left."""
        self._connection.check()  # MLflow's own retries would notice for minutes late that the store is back
        client = self._connection.client
        run = client.get_run(self.run_id)
        if run.info.status != OPEN or attempt < int(run.data.tags.get(f"{ATTEMPT_TAG}.{target}", attempt)):
            return False
        client.set_tag(self.run_id, f"{SIGN_TAG}.{target}-{attempt}", f"{os.getpid()} at {time.time():.3f}")
        return True

    @at_border
    def close(self) -> None:
        """End it, which whoever still works for it learns, and delete its files."""
        self._end(self.run_id)

    def _end(self, run_id: str) -> None:
        from mlflow.exceptions import MlflowException
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        client = self._connection.client
        client.set_terminated(run_id, "FINISHED")
        # What a store cannot delete goes with the run, by `mlflow gc`.
        with contextlib.suppress(MlflowException, OSError, NotImplementedError):
            files: Any = get_artifact_repository(client.get_run(run_id).info.artifact_uri, self.tracking_uri)
            files.delete_artifacts()
        client.delete_run(run_id)


def reachable(tracking_uri: str, chosen: str | None) -> str:
    """Where a host finds what was shared in the store ``tracking_uri`` of another; ``chosen`` is the one set here.

    A server may be known by another name, or with a password, here: what is set here counts.

    Raises:
        BadInputError: it is a database file that this host does not have.
    """
    if not tracking_uri.startswith("sqlite:"):
        return chosen or tracking_uri
    if not Path(tracking_uri.partition(":///")[2]).is_file():
        raise BadInputError(
            f"the release keeps its files in {tracking_uri}, which is not on {socket.gethostname()}; start one MLflow "
            "server for both hosts and set MLFLOW_TRACKING_URI to it, here and where the release is started"
        )
    return tracking_uri
