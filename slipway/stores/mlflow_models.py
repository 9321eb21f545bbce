"""Source models in MLflow: found by URI, fetched, and registered in a format that needs no pickle."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from slipway.errors import BadInputError
from slipway.records import Signature
from slipway.stores.mlflow_border import without_password
from slipway.stores.mlflow_connection import Connection, mlflow_signature
from slipway.stores.registry import ModelVersionRef, parse_model_uri

if TYPE_CHECKING:
    import torch
    from mlflow.models import Model

EXPERIMENT = "slipway-models"
WEIGHTS_TAG = "slipway.weights_sha256"


def resolve(connection: Connection, uri: str) -> ModelVersionRef:
    """See ``Registry.resolve``."""
    name, version, alias = parse_model_uri(uri)
    aliases = aliases_of(connection, name)
    if alias is not None and alias not in aliases:
        raise BadInputError(f"{uri}: model {name!r} has no alias {alias!r}; it has {_told(aliases)}")
    wanted = aliases[alias] if alias is not None else str(version)
    known = [str(found.version) for found in connection.versions(name)]
    if wanted not in known:
        raise BadInputError(f"{uri}: model {name!r} has no version {wanted}; it has {_told(known)}")
    return ModelVersionRef(name=name, version=wanted, uri=f"models:/{name}/{wanted}")


def aliases_of(connection: Connection, name: str) -> dict[str, str]:
    """Version by alias of a registered model.

    Raises:
        BadInputError: there is no such model; those that exist are told.
    """
    aliases = _aliases(connection, name)
    if aliases is None:
        known = [model.name for model in connection.client.search_registered_models(max_results=50)]
        store = without_password(connection.tracking_uri)
        raise BadInputError(f"no registered model {name!r} in {store}; it has {_told(known)}")
    return aliases


def aliases_if_any(connection: Connection, name: str) -> dict[str, str]:
    """Version by alias; empty where nothing is registered under ``name`` yet."""
    return _aliases(connection, name) or {}


def _aliases(connection: Connection, name: str) -> dict[str, str] | None:
    from mlflow.exceptions import MlflowException

    try:
        found = connection.client.get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return {alias: str(version) for alias, version in found.items()}


def download(connection: Connection, ref: ModelVersionRef, into: Path) -> Path:
    """See ``Registry.download``."""
    return connection.download(connection.client.get_model_version_download_uri(ref.name, ref.version), into)


def log_model(
    connection: Connection,
    module: torch.nn.Module,
    signature: Signature,
    example: Mapping[str, npt.NDArray[np.generic]],
    name: str,
) -> ModelVersionRef:
    """See ``Registry.log_model``."""
    check_example(module, signature, example)
    weights = weights_sha256(module)
    if known := connection.versions(name, (WEIGHTS_TAG, weights)):
        version = str(known[0].version)
    else:
        with connection.run(connection.experiment(EXPERIMENT), name, {WEIGHTS_TAG: weights}) as run_id:
            model_id = connection.log_model(
                run_id,
                name,
                lambda directory, metadata: _save(module, signature, example, directory, metadata),
                tags={WEIGHTS_TAG: weights},
                params={},
                model_type="source",
            )
            version = connection.create_version(name, model_id, run_id, {WEIGHTS_TAG: weights})
    return ModelVersionRef(name=name, version=version, uri=f"models:/{name}/{version}")


def check_example(
    module: torch.nn.Module, signature: Signature, example: Mapping[str, npt.NDArray[np.generic]]
) -> None:
    """Refuse what would be exported wrongly.

    Raises:
        BadInputError: training mode, other names than the signature's, or a batch below 2.
    """
    if module.training:
        raise BadInputError("the module is in training mode; call .eval() before logging it")
    names = [spec.name for spec in signature.inputs]
    if set(example) != set(names):
        raise BadInputError(f"the example has inputs {_told(example)}, the signature {_told(names)}; name them alike")
    if any(array.ndim == 0 or len(array) < 2 for array in example.values()):
        raise BadInputError("the example has a batch below 2, which would be exported as fixed; give 2 examples")


def weights_sha256(module: torch.nn.Module) -> str:
    """The sha256 over names, types, shapes and bytes of all parameters and buffers, in order of name."""
    state = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        array = tensor.detach().cpu().contiguous().numpy()
        state.update(f"{name} {array.dtype} {array.shape}\n".encode())
        state.update(array.tobytes())
    return state.hexdigest()


def _save(
    module: torch.nn.Module,
    signature: Signature,
    example: Mapping[str, npt.NDArray[np.generic]],
    directory: str,
    metadata: Model,
) -> None:
    import mlflow.pytorch
    import torch

    arrays = [example[spec.name] for spec in signature.inputs]
    with warnings.catch_warnings():
        # nn.LSTM and nn.GRU reassign their own list of weights in forward; the export keeps the parameters.
        warnings.filterwarnings("ignore", r"The tensor attributes? .*_flat_weights", UserWarning)
        mlflow.pytorch.save_model(
            module,
            directory,
            mlflow_model=metadata,
            signature=mlflow_signature(signature),
            input_example=arrays[0] if len(arrays) == 1 else arrays,
            pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
            serialization_format="pt2",
        )


def _told(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
