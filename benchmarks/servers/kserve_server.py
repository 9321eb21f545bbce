"""The model behind KServe's ModelServer: ``python kserve_server.py`` with MODEL, PORT and THREADS in the environment.

KServe reads the command line itself.
"""

from __future__ import annotations

import os

import onnxruntime
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class Engine(Model):
    """One ONNX Runtime session."""

    def __init__(self) -> None:
        super().__init__("resnet")
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = int(os.environ["THREADS"])
        self._session = onnxruntime.InferenceSession(os.environ["MODEL"], settings, providers=["CPUExecutionProvider"])
        self.ready = True

    def predict(self, payload: InferRequest, headers: object = None, response_headers: object = None) -> InferResponse:
        """The logits, in the binary tensor extension."""
        (logits,) = self._session.run(None, {"image": payload.inputs[0].as_numpy()})
        output = InferOutput("logits", list(logits.shape), "FP32")
        output.set_data_from_numpy(logits, binary_data=True)
        return InferResponse(payload.id or "", "resnet", [output], use_binary_outputs=True)


if __name__ == "__main__":
    ModelServer(http_port=int(os.environ["PORT"]), enable_grpc=False, workers=1).start([Engine()])
