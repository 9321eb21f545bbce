"""Fetch a model version from the registry, without ever running code that came with it unasked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from slipway.engines import engine
from slipway.engines.base import BuildOptions
from slipway.errors import BadInputError
from slipway.exports.program import export_program
from slipway.records import Artifact, ModelSource, Signature
from slipway.steps.isolated import isolated
from slipway.stores.mlmodel import RegistryModel, read_mlmodel
from slipway.stores.objects import ObjectStore, digest_of
from slipway.stores.registry import ModelVersionRef, Registry

if TYPE_CHECKING:
    import torch

DYNAMIC_EXAMPLE_SIZE = 2


def fetch(registry: Registry, objects: ObjectStore, version: ModelVersionRef, trust_pickle: bool) -> ModelSource:
    """Download a model version and put its program into the object store.

    Raises:
        BadInputError: no usable signature, or a pickled model without ``trust_pickle``.
    """
    with objects.new_dir() as folder:
        directory = registry.download(version, folder)
        try:
            found = read_mlmodel(directory)
            _check_trusted(found, trust_pickle)
            # In a process of its own: what is loaded here is somebody's model, at times somebody's code.
            program = isolated(make_program)(found, objects, folder)
        except BadInputError as error:
            raise BadInputError(f"{version.uri}: {error}") from error
        return ModelSource(
            uri=version.uri,
            name=version.name,
            version=version.version,
            format=found.format,
            digest=digest_of(found.file),
            program=program,
            signature=found.signature,
        )


def _check_trusted(found: RegistryModel, trust_pickle: bool) -> None:
    if found.format == "pickle" and not trust_pickle:
        raise BadInputError(
            "it is a pickled model, and loading a pickle runs whatever code is inside it; log it again in MLflow's "
            "default pt2 format, or set `trust_pickle: true` if you trust its author"
        )


def make_program(found: RegistryModel, objects: ObjectStore, folder: Path) -> Artifact:
    """The model as a program that carries its signature; a pickled module is unpickled, which runs its code.

    Raises:
        BadInputError: the file is damaged, or does not hold a module.
    """
    source, suffix = found.file, ".ts" if found.format == "torchscript" else ".pt2"
    if found.format == "pickle":
        source = folder / "unpickled.pt2"
        export_program(_unpickled(found.file), placeholder_inputs(found.signature), found.signature, source)
    out = folder / f"program{suffix}"
    engine("torch").build(source, out, BuildOptions(variant="fp32", signature=found.signature))
    return objects.put(out)


def _unpickled(file: Path) -> torch.nn.Module:
    import torch

    try:
        module = torch.load(file, map_location="cpu", weights_only=False)
    except Exception as error:  # unpickling raises whatever the pickle's code raises
        raise BadInputError(
            f"{file.name} cannot be unpickled here: {error}; install the package that defines its classes"
        ) from error
    if not isinstance(module, torch.nn.Module):
        raise BadInputError(
            f"{file.name} holds a {type(module).__name__}, not a torch.nn.Module; log the module itself"
        )
    return module.eval()


def placeholder_inputs(signature: Signature) -> dict[str, np.ndarray]:
    """Inputs of the right shapes and dtypes for tracing a model that has not seen data yet."""
    return {
        spec.name: np.zeros([DYNAMIC_EXAMPLE_SIZE if size < 0 else size for size in spec.shape], np.dtype(spec.dtype))
        for spec in signature.inputs
    }
