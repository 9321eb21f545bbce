"""Servers of one ONNX file, each started as its makers say and asked in the quickest form that it takes."""

from __future__ import annotations

import base64
import importlib.metadata
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from servers.load import Caller, Request
from servers.registered import NAME, TARGET, register

SCRIPTS = Path(__file__).parent
RUNTIME = f"onnxruntime=={importlib.metadata.version('onnxruntime')}"  # ours, for all
START_SECONDS = 300.0
MODEL = "resnet"
HEAD = "inference-header-content-length"
TORCHSERVE = """\
inference_address=http://127.0.0.1:{port}
management_address=http://127.0.0.1:{management}
metrics_address=http://127.0.0.1:{metrics}
grpc_inference_address=127.0.0.1
grpc_management_address=127.0.0.1
grpc_inference_port={grpc}
grpc_management_port={grpc_management}
default_workers_per_model=1
"""


@dataclass(frozen=True)
class Place:
    """Where a server runs: which Python, which file, a folder of its own, a port, and how many threads it may use."""

    python: Path
    model: Path
    folder: Path
    port: int
    threads: int


@dataclass(frozen=True)
class Contender:
    """A server: what its own virtual environment needs (empty: it is in ours), how it is started, asked and read."""

    name: str
    package: str
    form: str
    command: Callable[[Place], list[str]]
    request: Callable[[int, np.ndarray], Request]
    read: Callable[[Mapping[str, str], bytes], np.ndarray]
    requirements: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def python_of(contender: Contender, root: Path) -> Path:
    """The Python that has the server, in a virtual environment below ``root`` that is made when it is first needed."""
    if not contender.requirements:
        return Path(sys.executable)
    venv, wanted = root / contender.name.lower(), "\n".join(contender.requirements)
    python, done = venv / "bin" / "python", venv / "installed.txt"
    if not done.exists() or done.read_text(encoding="utf-8") != wanted:
        print(f"installing {', '.join(contender.requirements)}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *contender.requirements], check=True)
        done.write_text(wanted, encoding="utf-8")
    return python


def version_of(contender: Contender, python: Path) -> str:
    """The version that is installed."""
    if not contender.requirements:
        return importlib.metadata.version(contender.package)
    asked = f"import importlib.metadata as m; print(m.version({contender.package!r}))"
    return subprocess.run([str(python), "-c", asked], check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def started(contender: Contender, place: Place, image: np.ndarray, expected: np.ndarray) -> Iterator[Request]:
    """The request of a server that is up, and whose answer was found to be the engine's own.

    Raises:
        OSError: it did not start, or answers something else; its last words are told.
    """
    environment = {"MODEL": str(place.model), "PORT": str(place.port), "THREADS": str(place.threads)}
    path = {"PATH": f"{place.python.parent}:{os.environ['PATH']}", "TMPDIR": str(place.folder)}
    log = place.folder / "log.txt"
    with log.open("wb") as out:
        process = psutil.Popen(
            contender.command(place),
            cwd=place.folder,
            env={**os.environ, **environment, **path, **contender.environment},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        request = contender.request(place.port, image)
        found = contender.read(*_first_answer(request, process, log))
        if not np.allclose(found.ravel(), expected.ravel(), rtol=1e-3, atol=1e-3):
            raise OSError(f"{contender.name} answers something else than the engine")
        yield request
    finally:
        _end(process)


def _end(process: psutil.Popen) -> None:
    left: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        left = process.children(recursive=True)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for one in left:  # those that went into a group of their own
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()


def _first_answer(request: Request, process: psutil.Popen, log: Path) -> tuple[dict[str, str], bytes]:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with Caller(request) as caller:
                return caller.ask()
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                words = log.read_text(encoding="utf-8", errors="replace").strip()[-1500:]
                raise OSError(f"it did not start ({error}): {words}") from error
            time.sleep(0.5)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def _script(name: str) -> Callable[[Place], list[str]]:
    return lambda place: [str(place.python), str(SCRIPTS / name)]


def _slipway(*options: str) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        register(place.folder, place.model, place.threads)
        served = ["serve", NAME, "--target", TARGET, "--port", str(place.port)]
        return [str(place.python), "-m", "slipway.cli", *served, *options]

    return command


def _mlflow(place: Place) -> list[str]:
    import mlflow.onnx
    import onnx
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    single = np.dtype(np.float32)
    mlflow.onnx.save_model(
        onnx.load(place.model),
        str(place.folder / "model"),
        signature=ModelSignature(
            inputs=Schema([TensorSpec(single, (-1, 3, 224, 224), "image")]),
            outputs=Schema([TensorSpec(single, (-1, 1000), "logits")]),
        ),
        onnx_execution_providers=["CPUExecutionProvider"],
        onnx_session_options={"intra_op_num_threads": place.threads},
    )
    options = ["--model-uri", "model", "--env-manager", "local", "--host", "127.0.0.1", "--port", str(place.port)]
    return [str(place.python), "-m", "mlflow", "models", "serve", *options, "--workers", "1"]


def _torchserve(place: Place) -> list[str]:
    handler = SCRIPTS / "torchserve_handler.py"
    about = {"modelName": MODEL, "modelVersion": "1.0", "handler": handler.name}
    manifest = {"runtime": "python", "model": about, "archiverVersion": "0.12.0"}
    (place.folder / "store").mkdir()
    with zipfile.ZipFile(place.folder / "store" / f"{MODEL}.mar", "w") as packed:
        packed.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        packed.write(handler, handler.name)
        packed.write(place.model, "model.onnx")
    names = ("management", "metrics", "grpc", "grpc_management")
    with ExitStack() as held:
        others = {name: held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for name in names}
    settings = place.folder / "config.properties"
    settings.write_text(TORCHSERVE.format(port=place.port, **others), encoding="ascii")
    program = [str(place.python), "-m", "ts.model_server", "--start", "--foreground", "--ncs", "--disable-token-auth"]
    return [*program, "--ts-config", str(settings), "--model-store", "store", "--models", "all"]


def _protocol(name: str) -> Callable[[int, np.ndarray], Request]:
    """The Open Inference Protocol with binary tensors both ways."""

    def request(port: int, image: np.ndarray) -> Request:
        tensor = {"name": "image", "datatype": "FP32", "shape": list(image.shape)}
        head = json.dumps(
            {
                "inputs": [tensor | {"parameters": {"binary_data_size": image.nbytes}}],
                "outputs": [{"name": "logits", "parameters": {"binary_data": True}}],
            }
        ).encode()
        headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
        return Request(port, f"/v2/models/{name}/infer", headers, head + image.tobytes())

    return request


def _from_protocol(headers: Mapping[str, str], body: bytes) -> np.ndarray:
    return np.frombuffer(body[int(headers[HEAD]) :], np.float32)


def _in_base64(port: int, image: np.ndarray) -> Request:
    body = json.dumps({"image": base64.b64encode(image.tobytes()).decode()}).encode()
    return Request(port, "/predict", {"Content-Type": "application/json"}, body)


def _in_json(port: int, image: np.ndarray) -> Request:
    body = json.dumps({"inputs": {"image": image.tolist()}}).encode()
    return Request(port, "/invocations", {"Content-Type": "application/json"}, body)


def _in_bytes(port: int, image: np.ndarray) -> Request:
    return Request(port, f"/predictions/{MODEL}", {"Content-Type": "application/octet-stream"}, image.tobytes())


CONTENDERS = (
    Contender("Slipway", "slipway", "binary tensors", _slipway(), _protocol(f"{NAME}.{TARGET}"), _from_protocol),
    # As PyTriton is set below.
    Contender(
        "Slipway --batching 8",
        "slipway",
        "binary tensors",
        _slipway("--batching", "8"),
        _protocol(f"{NAME}.{TARGET}"),
        _from_protocol,
    ),
    # No server that anybody would run, but what none can be quicker than.
    Contender(
        "plain socket, ONNX Runtime",
        "onnxruntime",
        "raw bytes",
        _script("plain_socket.py"),
        _in_bytes,
        lambda _, body: np.frombuffer(body, np.float32),
    ),
    Contender(
        "PyTriton",
        "nvidia-pytriton",
        "binary tensors",
        _script("pytriton_server.py"),
        _protocol(MODEL),
        _from_protocol,
        ("nvidia-pytriton==0.7.0", RUNTIME),
        # Its workers look for a libpython, and would find the system's.
        {"LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR"))},
    ),
    Contender(
        "KServe",
        "kserve",
        "binary tensors",
        _script("kserve_server.py"),
        _protocol(MODEL),
        _from_protocol,
        ("kserve==0.21.0", RUNTIME),
    ),
    Contender(
        "LitServe",
        "litserve",
        "base64 in JSON",
        _script("litserve_server.py"),
        _in_base64,
        lambda _, body: np.frombuffer(base64.b64decode(json.loads(body)["logits"]), np.float32),
        ("litserve==0.2.19", RUNTIME),
    ),
    Contender(
        "TorchServe",
        "torchserve",
        "raw bytes",
        _torchserve,
        _in_bytes,
        lambda _, body: np.frombuffer(body, np.float32),
        environment={"LOG_LOCATION": "logs", "METRICS_LOCATION": "logs"},
    ),
    Contender(
        "mlflow models serve",
        "mlflow",
        "JSON",
        _mlflow,
        _in_json,
        lambda _, body: np.array(json.loads(body)["predictions"]["logits"], np.float32),
        environment={"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"},
    ),
)
