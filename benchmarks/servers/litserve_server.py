"""The model behind LitServe: ``python litserve_server.py`` with MODEL, PORT and THREADS in the environment."""

from __future__ import annotations

import base64
import os
from typing import Any

import litserve
import numpy as np
import onnxruntime


class Engine(litserve.LitAPI):
    """One ONNX Runtime session, which takes the image's bytes in base64."""

    def setup(self, device: str) -> None:
        """Open the session."""
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = int(os.environ["THREADS"])
        self._session = onnxruntime.InferenceSession(os.environ["MODEL"], settings, providers=["CPUExecutionProvider"])

    def decode_request(self, request: dict[str, str]) -> np.ndarray:
        """The image."""
        return np.frombuffer(base64.b64decode(request["image"]), np.float32).reshape(1, 3, 224, 224)

    def predict(self, image: np.ndarray) -> Any:
        """The logits."""
        return self._session.run(None, {"image": image})[0]

    def encode_response(self, logits: Any) -> dict[str, str]:
        """Their bytes."""
        return {"logits": base64.b64encode(logits.tobytes()).decode()}


if __name__ == "__main__":
    server = litserve.LitServer(Engine(), accelerator="cpu", workers_per_device=1, timeout=120)
    server.run(
        host="127.0.0.1", port=int(os.environ["PORT"]), num_api_servers=1, generate_client_file=False, log_level="error"
    )
