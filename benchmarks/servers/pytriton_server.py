"""The model behind PyTriton: ``python pytriton_server.py`` with MODEL, PORT and THREADS in the environment."""

from __future__ import annotations

import os

import numpy as np
import onnxruntime
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

settings = onnxruntime.SessionOptions()
settings.intra_op_num_threads = int(os.environ["THREADS"])
session = onnxruntime.InferenceSession(os.environ["MODEL"], settings, providers=["CPUExecutionProvider"])


@batch
def infer(image: np.ndarray) -> dict[str, np.ndarray]:
    """The logits."""
    return {"logits": session.run(None, {"image": image})[0]}


if __name__ == "__main__":
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=int(os.environ["PORT"]),
        allow_grpc=False,
        allow_metrics=False,
    )
    with Triton(config=config) as triton:
        triton.bind(
            "resnet",
            infer,
            inputs=[Tensor(name="image", dtype=np.float32, shape=(3, 224, 224))],
            outputs=[Tensor(name="logits", dtype=np.float32, shape=(1000,))],
            config=ModelConfig(max_batch_size=8),  # it gathers what waits
        )
        triton.serve()
