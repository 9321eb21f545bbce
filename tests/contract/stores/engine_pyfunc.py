"""The smallest models-from-code file: it finds its engine file and hands inputs back.

The input is annotated as a bare ``np.ndarray``: of most other annotations, and of none, MLflow warns.
"""

from __future__ import annotations

from typing import Any

import mlflow
import numpy as np
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class Engine(PythonModel):
    """Remembers where its engine file lies."""

    def load_context(self, context: PythonModelContext) -> None:
        """Keep the path."""
        self.path = context.artifacts["engine"]

    def predict(self, context: PythonModelContext, model_input: np.ndarray, params: Any = None) -> Any:
        """Echo the input."""
        return model_input


mlflow.models.set_model(Engine())
