"""PyTorch's two archives, program (``.pt2``) and TorchScript (``.ts``): told apart, and labelled with a signature."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from slipway.engines.checks import bad_file
from slipway.engines.zip_members import opened, read_stored
from slipway.errors import BadInputError, UnsupportedError
from slipway.records import Form, Signature

if TYPE_CHECKING:
    import torch

SIGNATURE_FILE = "signature.json"
_KINDS = {Form.PROGRAM: "a torch.export program", Form.TORCHSCRIPT: "a TorchScript file"}


def require_form(engine: str, path: Path, *forms: Form) -> Form:
    """Which of ``forms`` the archive at ``path`` holds, told by its content (both are zip files).

    Raises:
        BadInputError: none of them.
    """
    with opened(engine, path, _either(forms)) as archive:
        members = {name.partition("/")[2] for name in archive.namelist()}
    if "models/model.json" in members:
        form = Form.PROGRAM
    elif "constants.pkl" in members and any(member.startswith("code/") for member in members):
        form = Form.TORCHSCRIPT
    else:
        raise _not_one_of(engine, path, forms)
    if form not in forms:
        raise _not_one_of(engine, path, forms)
    return form


def require_program(engine: str, source: Path) -> None:
    """Check that ``source`` is a torch.export program, from which alone ``engine`` compiles.

    Raises:
        BadInputError: it is another file.
        UnsupportedError: it is TorchScript, as which the model was registered.
    """
    try:
        require_form(engine, source, Form.PROGRAM)
    except BadInputError:
        if require_form(engine, source, Form.PROGRAM, Form.TORCHSCRIPT) is Form.TORCHSCRIPT:
            raise UnsupportedError(
                f"engine {engine} compiles torch.export programs, and this model was registered as TorchScript; "
                "use torchscript, or register the model as pt2"
            ) from None
        raise


def read_signature(engine: str, path: Path) -> Signature:
    """The signature that an engine file of PyTorch carries as its extra file ``signature.json``.

    Raises:
        BadInputError: it carries none, so no engine built it.
    """
    wanted = f"an engine file with {SIGNATURE_FILE} inside"
    with opened(engine, path, wanted) as archive:
        member = next(name for name in archive.namelist() if name.partition("/")[2] == f"extra/{SIGNATURE_FILE}")
        return Signature.model_validate_json(read_stored(archive, member))


def read_extra(engine: str, path: Path, name: str) -> bytes | None:
    """The extra file ``name`` of an engine file of PyTorch; None where it carries none.

    Raises:
        BadInputError: the file is damaged.
    """
    with opened(engine, path, f"an engine file with {SIGNATURE_FILE} inside") as archive:
        members = (member for member in archive.namelist() if member.partition("/")[2] == f"extra/{name}")
        found = next(members, None)
        return None if found is None else read_stored(archive, found)


def load_program(engine: str, path: Path) -> torch.export.ExportedProgram:
    """The program at ``path``.

    Raises:
        BadInputError: the file is damaged.
    """
    import torch

    try:
        with path.open("rb") as file:
            return torch.export.load(file)
    except Exception as error:  # a damaged archive can fail anywhere in the loader
        raise _not_one_of(engine, path, (Form.PROGRAM,)) from error


def load_script(engine: str, path: Path) -> torch.jit.ScriptModule:
    """The TorchScript module at ``path``, in evaluation mode.

    Raises:
        BadInputError: the file is damaged.
    """
    import torch

    try:
        with torchscript_is_deprecated():
            module: torch.jit.ScriptModule = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:  # a damaged archive can fail anywhere in the loader
        raise _not_one_of(engine, path, (Form.TORCHSCRIPT,)) from error
    return module.eval()


def save_program(
    program: torch.export.ExportedProgram, out: Path, signature: Signature, further: Mapping[str, str] | None = None
) -> None:
    """Write ``program`` with its signature and ``further`` extra files; the same program gives the same bytes."""
    import torch

    buffer = io.BytesIO()  # a path's stem would go into the bytes
    extra = {SIGNATURE_FILE: signature.model_dump_json(), **(further or {})}
    torch.export.save(program, buffer, extra_files=extra)
    out.write_bytes(buffer.getbuffer())


def save_script(module: torch.jit.ScriptModule, out: Path, signature: Signature) -> None:
    """Write ``module`` with its signature; the same module gives the same bytes."""
    import torch

    buffer = io.BytesIO()  # a path's stem would go into the bytes
    with torchscript_is_deprecated():
        torch.jit.save(module, buffer, _extra_files={SIGNATURE_FILE: signature.model_dump_json()})
    out.write_bytes(buffer.getbuffer())


@contextmanager
def torchscript_is_deprecated() -> Iterator[None]:
    """Keep quiet PyTorch's notice on every use of TorchScript, its only file for packed int8 weights."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        yield


def _not_one_of(engine: str, path: Path, forms: tuple[Form, ...]) -> Exception:
    return bad_file(engine, path, _either(forms))


def _either(forms: tuple[Form, ...]) -> str:
    return " or ".join(_KINDS[form] for form in forms)
