"""The file of engine ``executorch``: a plain ``.pte``, with a label behind it that its runtime does not read."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import ValidationError

from slipway.engines.checks import bad_file
from slipway.records import Record, Signature

END = b"slipway-pte-1"  # closes the file, after the label and its length
_LENGTH_BYTES = 8
_IDENTIFIER = b"ET12"  # of ExecuTorch's flatbuffer, at bytes 4 to 8
_WANTED = "a .pte file that this engine built"


class Label(Record):
    """What the program itself does not tell: names and dynamic sizes, and ``portable``, its kernels' float type.

    ``digest`` is the sha256 of the program.
    """

    signature: Signature
    portable: str
    digest: str


def write_labelled(program: bytes, signature: Signature, portable: str, out: Path) -> None:
    """Write a program with its label; phones, too, run the file as it is."""
    label = Label(signature=signature, portable=portable, digest=hashlib.sha256(program).hexdigest())
    told = label.model_dump_json().encode()
    out.write_bytes(b"".join((program, told, len(told).to_bytes(_LENGTH_BYTES, "little"), END)))


def read_labelled(engine: str, path: Path) -> tuple[bytes, Label]:
    """The program and its label; the runtime, which trusts what it reads, sees no byte that was changed.

    Raises:
        BadInputError: the file is missing, damaged, or not from here.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise bad_file(engine, path, _WANTED) from error
    body, end = content[: -len(END)], content[-len(END) :]
    length = int.from_bytes(body[-_LENGTH_BYTES:], "little")
    start = len(body) - _LENGTH_BYTES - length
    if end != END or start < 0:
        raise bad_file(engine, path, _WANTED)
    program = content[:start]
    try:
        label = Label.model_validate_json(body[start:-_LENGTH_BYTES])
    except ValidationError as error:
        raise bad_file(engine, path, _WANTED) from error
    if program[4:8] != _IDENTIFIER or hashlib.sha256(program).hexdigest() != label.digest:
        raise bad_file(engine, path, _WANTED)
    return program, label
