"""An engine file of TVM: a zip archive of one shared library and a label that tells what is inside."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import platform
import zipfile
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from slipway.engines.checks import bad_file
from slipway.engines.zip_members import opened, read_stored
from slipway.errors import UnsupportedError
from slipway.records import Layer, Record, Signature

LIBRARY = "model.so"
ANY_BATCH = "main"
_LABEL = "tvm.json"
_WANTED = "an archive of TVM's with its label inside"
_LONG_AGO = (1980, 1, 1, 0, 0, 0)
_CPU_INFO = Path("/proc/cpuinfo")
# Of all that Linux tells of a CPU, what a compiler makes use of.
_INSTRUCTIONS = ("sse", "ssse", "avx", "fma", "f16c", "bmi", "amx", "asimd", "sve", "gfni", "vaes", "vpclmul")


class Label(Record):
    """What an archive holds.

    ``library`` is the SHA-256 of the shared library; ``machine`` and ``instructions``, the CPU that it was compiled
    for; ``kernels``, by function, what it calls in order; ``batches``, the functions that answer one batch size alone.
    """

    version: str
    library: str
    machine: str
    instructions: tuple[str, ...]
    signature: Signature
    kernels: dict[str, tuple[Layer, ...]]
    batches: dict[int, str]


def instructions() -> tuple[str, ...]:
    """The vector and bit instructions of this host's CPU, as Linux names them."""
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ()
    words = next((line.split() for line in lines if line.startswith(("flags", "Features"))), [])
    return tuple(sorted(word for word in words if word.startswith(_INSTRUCTIONS)))


def write(out: Path, library: bytes, label: Label) -> None:
    """Write the archive; the same content gives the same bytes."""
    members: Mapping[str, bytes] = {_LABEL: label.model_dump_json().encode(), LIBRARY: library}
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, _LONG_AGO), content)


def sha256(content: bytes) -> str:
    """The digest that a label tells of its library."""
    return hashlib.sha256(content).hexdigest()


def read(engine: str, path: Path) -> tuple[Label, bytes]:
    """The label and the library at ``path``, held against its checksum: loading a shared library runs it.

    Raises:
        BadInputError: the file is missing, damaged, or not one that this engine built.
    """
    with opened(engine, path, _WANTED) as archive:
        label = Label.model_validate_json(read_stored(archive, _LABEL))
        library = read_stored(archive, LIBRARY)
    if sha256(library) != label.library:
        raise bad_file(engine, path, _WANTED)
    return label, library


def require_cpu(engine: str, label: Label) -> None:
    """Check that this host's CPU has what the library was compiled for.

    Raises:
        UnsupportedError: it has not.
    """
    machine, missing = platform.machine(), sorted(set(label.instructions) - set(instructions()))
    if machine != label.machine:
        found = f"{label.machine}, this one is {machine}"
    elif missing:
        found = f"one with {', '.join(missing)}, which this one lacks"
    else:
        return
    raise UnsupportedError(
        f"engine {engine} cannot run here: the file was compiled for a CPU of another kind, {found}; "
        "build the candidate again on this host"
    )


def open_library(library: bytes) -> Any:
    """The virtual machine of a library on the CPU, under TVM's runtime alone, without its compiler."""
    load_runtime()
    import tvm_ffi

    with TemporaryDirectory() as folder:
        file = Path(folder) / LIBRARY
        file.write_bytes(library)
        machine = tvm_ffi.load_module(str(file))["vm_load_executable"]()
    cpu, first, pooled = 1, 0, 2
    machine["vm_initialization"](cpu, first, pooled)
    return machine


def load_runtime() -> None:
    """Bring TVM's runtime into the process, its threads left to run where the system puts them."""
    os.environ["TVM_BIND_THREADS"] = "0"  # else each would stay on a core of its own, also the caller's
    import tvm_ffi  # noqa: F401 - the runtime is linked against it

    spec = importlib.util.find_spec("tvm")
    assert spec is not None
    assert spec.origin is not None
    ctypes.CDLL(str(Path(spec.origin).parent / "lib" / "libtvm_runtime.so"), ctypes.RTLD_GLOBAL)
