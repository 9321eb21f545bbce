"""How TorchServe calls the model: an image's bytes in, the logits' bytes out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


class Handler:
    """One ONNX Runtime session."""

    def initialize(self, context: Any) -> None:
        """Open the session."""
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = int(os.environ["THREADS"])
        path = Path(context.system_properties["model_dir"]) / "model.onnx"
        self._session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])

    def handle(self, requests: list[dict[str, bytes]], context: Any) -> list[bytes]:
        """An answer to each request."""
        return [self._answer(request["body"]) for request in requests]

    def _answer(self, body: bytes) -> bytes:
        image = np.frombuffer(body, np.float32).reshape(1, 3, 224, 224)
        logits: bytes = self._session.run(None, {"image": image})[0].tobytes()
        return logits
