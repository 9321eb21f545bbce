"""How an example is prepared, once: its data written and tracked by DVC, its model registered."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from slipway.errors import BadInputError, InfrastructureError, SlipwayError, TamperedError
from slipway.records import Record, Signature, TensorSpec
from slipway.stores.datasets import write_shards
from slipway.stores.registry import ModelVersionRef, Registry
from slipway.stores.tracking import ensure_remote, push, track, verify

if TYPE_CHECKING:
    from torch import nn

Reporter: TypeAlias = Callable[[str], None]
SHARD_SIZE = 1000


class Split(NamedTuple):
    """Inputs (N, ...), float32, as the model takes them, and the class of each (N,), int64."""

    inputs: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


class Prepared(Record):
    """What an earlier preparation left: the digest of its recipe, the model version, the md5 of each split."""

    recipe: str
    model_uri: str
    data_md5: dict[str, str]


@dataclass(frozen=True, slots=True)
class Example:
    """Data, a trained classifier with one input, and the parameters of its release.

    ``params`` is absolute, or relative to the project's root. ``make`` yields the splits by name (``test``,
    ``calibration`` and, if the model is trained here, ``train``) and the model. It is called again when one of
    ``sources``, or the version of one of ``distributions``, has changed.
    """

    name: str
    model_name: str
    params: Path
    input: TensorSpec
    classes: int
    sources: tuple[Path, ...]
    distributions: tuple[str, ...]
    make: Callable[[Path, Reporter], tuple[dict[str, Split], nn.Module]]

    @property
    def signature(self) -> Signature:
        """One batch of inputs in, one logit per class out."""
        logits = TensorSpec(name="logits", dtype="float32", shape=(-1, self.classes))
        return Signature(inputs=(self.input,), outputs=(logits,))

    @property
    def model_uri(self) -> str:
        """The version that a registry without any other version of the model gives it."""
        return f"models:/{self.model_name}/1"

    def holds(self, directory: Path) -> bool:
        """Whether ``directory``, relative to the project's root, is one of the example's splits."""
        return directory.parent == Path("data", self.name)

    def prepare(self, root: Path, registry: Registry, progress: Reporter) -> ModelVersionRef:
        """Have data/NAME/SPLIT under ``root`` written and tracked, and the model in ``registry``; return its version.

        Nothing is done where all of it is there, unchanged. ``root`` becomes a DVC repository if it is none.

        Raises:
            BadInputError: a package or program that the example needs is missing.
            TamperedError: the data that an earlier preparation wrote was changed since.
            InfrastructureError: a download failed, or a store cannot be reached.
        """
        recipe = self._recipe()
        try:
            return self._prepared(root, registry, recipe)
        except TamperedError:
            raise
        except BadInputError as reason:
            progress(f"preparing the example {self.name}: {reason}")
        splits, module = self.make(root, progress)
        _ensure_dvc_repository(root)
        data_md5 = {name: track(self._write(root, name, split, progress)).md5 for name, split in splits.items()}
        ensure_remote(root, root / ".slipway" / "dvc-remote")
        for name in splits:
            push(self._directory(root, name))
        model = self._register(registry, module, splits, progress)
        record = Prepared(recipe=recipe, model_uri=model.uri, data_md5=data_md5)
        path = self._record_path(root)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return model

    def restore(self, root: Path, registry: Registry, progress: Reporter) -> None:
        """Make the model and what is missing of the data again; what lies there or is tracked already stays as it is.

        Raises:
            BadInputError: a package or program that the example needs is missing, or other data than it makes here are
                tracked.
            InfrastructureError: a download failed, or a store cannot be reached.
        """
        self._recipe()
        splits, module = self.make(root, progress)
        self._register(registry, module, splits, progress)
        for name, split in splits.items():
            directory = self._directory(root, name)
            if directory.exists():
                continue
            self._write(root, name, split, progress)
            try:
                _track_as_before(directory)
            except SlipwayError:
                shutil.rmtree(directory)  # else the next attempt would leave it as it is
                raise

    def _directory(self, root: Path, split: str) -> Path:
        return root / "data" / self.name / split

    def _write(self, root: Path, name: str, split: Split, progress: Reporter) -> Path:
        progress(f"writing data/{self.name}/{name}: {len(split.labels)} examples")
        directory = self._directory(root, name)
        write_shards(directory, {self.input.name: split.inputs}, split.labels, SHARD_SIZE)
        return directory

    def _register(
        self, registry: Registry, module: nn.Module, splits: dict[str, Split], progress: Reporter
    ) -> ModelVersionRef:
        progress(f"registering {self.model_name}")
        two = {self.input.name: splits["test"].inputs[:2]}
        return registry.log_model(module, self.signature, two, self.model_name)

    def _prepared(self, root: Path, registry: Registry, recipe: str) -> ModelVersionRef:
        """The version registered earlier; BadInputError tells why the example has to be made (again)."""
        path = self._record_path(root)
        if not path.exists():
            raise BadInputError("not prepared here yet")
        try:
            record = Prepared.model_validate_json(path.read_bytes())
        except ValueError as error:
            raise BadInputError(f"{path} is damaged") from error
        if record.recipe != recipe:
            raise BadInputError("its source, or a package it is made with, has changed")
        for name, md5 in record.data_md5.items():
            directory = self._directory(root, name)
            if verify(directory).md5 != md5:
                raise BadInputError(f"{directory} holds other data")
        return registry.resolve(record.model_uri)

    def _recipe(self) -> str:
        digest = hashlib.sha256()
        for source in self.sources:
            digest.update(source.read_bytes())
        for distribution in self.distributions:
            try:
                digest.update(f"{distribution}=={metadata.version(distribution)}\n".encode())
            except metadata.PackageNotFoundError as error:
                raise BadInputError(
                    f"the example {self.name} needs {distribution}, which is not installed; "
                    "run `pip install 'slipway[examples]'`"
                ) from error
        return digest.hexdigest()

    def _record_path(self, root: Path) -> Path:
        return root / ".slipway" / "examples" / f"{self.name}.json"


def _track_as_before(directory: Path) -> None:
    """Track bytes just made, unless others are tracked already."""
    if directory.with_name(f"{directory.name}.dvc").exists():
        try:
            verify(directory)
        except TamperedError as error:
            raise BadInputError(
                f"data {directory} is tracked with other bytes than the example makes; run `dvc pull {directory}`"
            ) from error
    track(directory)


def _ensure_dvc_repository(root: Path) -> None:
    if (root / ".dvc").is_dir():
        return
    in_git = any((folder / ".git").exists() for folder in (root.resolve(), *root.resolve().parents))
    options = [] if (root / ".git").exists() else ["--subdir" if in_git else "--no-scm"]
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "init", "--quiet", *options],
        cwd=root,
        env={**os.environ, "DVC_NO_ANALYTICS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise InfrastructureError(f"`dvc init` failed in {root}: {' '.join(done.stderr.split())}")
