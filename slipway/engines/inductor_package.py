"""An AOTInductor package of Slipway: a ``.pt2`` archive of shared objects, with a label that tells what is inside."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from slipway.engines.checks import bad_file
from slipway.engines.profiling import is_precision, precision_of
from slipway.engines.torch_archive import SIGNATURE_FILE
from slipway.engines.zip_members import opened, read_stored
from slipway.records import Record, Signature

ANY_BATCH = 0
_LABEL_FILE = "inductor.json"
_MODELS = "data/aotinductor/"
_WANTED = "an AOTInductor package with its label inside"
_KERNEL = re.compile(r'^extern "C"\s+void\s+(\w+)\(([^)]*)\)', re.MULTILINE)
_POINTER = re.compile(r"(?:const )?(\w+(?:::\w+)?)\*")
_MATRIX_PRODUCT = "_micro_gemm"  # what Inductor's template of a matrix product calls


class Kernel(Record):
    """A kernel that Inductor wrote: the precision of what it reads first, and whether it multiplies matrices.

    A product of at most 16 x 16, which Inductor writes as a sum, is not counted as one.
    """

    precision: str
    multiplies: bool


class Label(Record):
    """What a package holds.

    ``members`` are the SHA-256 of the files that are loaded; ``models``, the batch that each model is for (0 is any);
    ``cpu``, the instructions that PyTorch found when it compiled. ``shapes`` are those of the inputs for any batch,
    with a name for each size that may change, and ``ranges`` the sizes that they may take (None is no end).
    """

    members: dict[str, str]
    models: dict[str, int]
    cpu: str
    shapes: tuple[tuple[int | str, ...], ...]
    ranges: dict[str, tuple[int, int | None]]
    kernels: dict[str, Kernel]


def write_package(out: Path, files: Mapping[str, Iterable[Path]], label: Label, signature: Signature) -> None:
    """Write the ``files`` of each model as one package; the same files give the same bytes."""
    from torch.export.pt2_archive._package import package_pt2

    buffer = io.BytesIO()  # a path's stem would go into the bytes
    package_pt2(
        buffer,
        aoti_files={model: [str(file) for file in members] for model, members in files.items()},
        extra_files={SIGNATURE_FILE: signature.model_dump_json(), _LABEL_FILE: label.model_dump_json()},
    )
    out.write_bytes(buffer.getbuffer())


def checksums(files: Mapping[str, Iterable[Path]]) -> dict[str, str]:
    """The SHA-256 of each file under its name in the package."""
    return {
        f"{_MODELS}{model}/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest()
        for model, members in files.items()
        for file in members
    }


def read_label(engine: str, path: Path) -> Label:
    """The label of the package at ``path``.

    Raises:
        BadInputError: it has none, so this engine did not build it.
    """
    with opened(engine, path, _WANTED) as archive:
        member = next(name for name in archive.namelist() if name.partition("/")[2] == f"extra/{_LABEL_FILE}")
        return Label.model_validate_json(read_stored(archive, member))


@contextmanager
def unpacked(engine: str, path: Path, label: Label) -> Iterator[Path]:
    """A folder with the package's files, gone after the context: what is loaded from it stays in memory.

    Each file is held against its checksum before anything is loaded: loading a shared object runs it.

    Raises:
        BadInputError: a file is missing, damaged, or not the one that was built.
    """
    with TemporaryDirectory() as folder:
        with opened(engine, path, _WANTED) as archive:
            found = {name.partition("/")[2]: name for name in archive.namelist()}
            for member, digest in label.members.items():
                content = read_stored(archive, found[member])
                if hashlib.sha256(content).hexdigest() != digest or not _is_inside(member):
                    raise bad_file(engine, path, _WANTED)
                target = Path(folder, member)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
        yield Path(folder)


def _is_inside(member: str) -> bool:
    return member.startswith(_MODELS) and ".." not in member


def kernels_of(source: str) -> dict[str, Kernel]:
    """The kernels of a C++ source that Inductor wrote, by name."""
    bodies = _KERNEL.split(source)[1:]
    return {
        name: Kernel(precision=_first_precision(arguments), multiplies=_MATRIX_PRODUCT in body)
        for name, arguments, body in zip(bodies[::3], bodies[1::3], bodies[2::3], strict=True)
    }


def _first_precision(arguments: str) -> str:
    types = [f"c10::{kind.removeprefix('at::')}" if "::" in kind else kind for kind in _POINTER.findall(arguments)]
    return next((precision_of(kind) for kind in types if is_precision(kind)), "none")
