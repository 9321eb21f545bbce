"""The bare session: ONNX Runtime called in a loop by nobody else, in a process of its own.

``python bare.py MODEL THREADS`` answers each line on stdin, a number of seconds, with the calls' times in seconds.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import onnxruntime

SKIPPED = 3  # calls at the beginning of a window, for caches that others have filled


def main() -> None:
    """Time calls until stdin ends."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = int(sys.argv[2])
    session = onnxruntime.InferenceSession(sys.argv[1], settings, providers=["CPUExecutionProvider"])
    image = np.zeros((1, 3, 224, 224), np.float32)
    for line in sys.stdin:
        until = time.perf_counter() + float(line)
        times: list[float] = []
        while len(times) <= SKIPPED or time.perf_counter() < until:
            start = time.perf_counter()
            session.run(None, {"image": image})
            times.append(time.perf_counter() - start)
        print(json.dumps(times[SKIPPED:]), flush=True)


if __name__ == "__main__":
    main()
