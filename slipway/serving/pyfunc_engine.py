"""How MLflow loads a registered engine by itself: ``mlflow.pyfunc.load_model("models:/NAME.TARGET@champion")``.

MLflow runs this file as models-from-code; the engine file and its evidence lie beside it in the logged model. It is
for looking at an engine, wherever that may be, and promises no speed: a stale one opens as well, which `slipway serve`
refuses. Nobody opens bytes other than those of the evidence, and no engine opens a file that it cannot run here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from slipway.engines import engine
from slipway.engines.base import RunOptions
from slipway.errors import BadInputError
from slipway.records import Evidence
from slipway.serving.answering.engine_file import require_proven, threads_of
from slipway.stores.mlflow_border import import_mlflow

import_mlflow()

from mlflow.models import set_model  # noqa: E402 - imported quietly above, which a plain import is not
from mlflow.pyfunc.model import PythonModel, PythonModelContext  # noqa: E402


class EngineModel(PythonModel):
    """One engine file behind MLflow's ``predict``."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open the engine with the threads that were found best for it.

        Raises:
            TamperedError: the file's sha256 is not the one in its evidence.
        """
        path = Path(context.artifacts["engine"])
        evidence = Evidence.model_validate_json((path.parents[1] / "evidence.json").read_text(encoding="utf-8"))
        require_proven(path, evidence, "register the model again")
        self._session = engine(evidence.spec.engine).load(path, RunOptions(threads=threads_of(evidence)))

    # MLflow reads the hint and warns about any but this one.
    def predict(
        self,
        context: PythonModelContext,
        model_input: np.ndarray,
        params: dict[str, Any] | None = None,
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Outputs by name, for a dictionary of inputs by name or, where there is one input, its array alone."""
        inputs: Any = model_input
        if not isinstance(inputs, dict):
            names = [spec.name for spec in self._session.inputs]
            if len(names) != 1:
                raise BadInputError(f"this engine takes {len(names)} inputs; give a dictionary of {', '.join(names)}")
            inputs = {names[0]: np.asarray(inputs)}
        return self._session.infer(inputs)


set_model(EngineModel())
