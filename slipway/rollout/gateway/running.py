"""A running gateway as others find it: its record in a folder, and the lock that lets one model have one gateway."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import FileLock, Timeout
from pydantic import ValidationError

from slipway.errors import BadInputError, InfrastructureError
from slipway.records import Record

RECORD = "gateway.json"
LOCK = "gateway.lock"


class Gateway(Record):
    """The data plane of the registered model ``name``: where it answers, how it is steered, and what it logs.

    ``address`` and ``admin`` are URLs without a path. The logs are JSON lines, appended to and cut when they grow long.
    """

    name: str
    address: str
    admin: str
    folder: Path
    access_log: Path
    champion_log: Path
    challenger_log: Path
    pid: int


def gateway_folder(state: Path, name: str) -> Path:
    """Where the gateway of the registered model ``name`` keeps its files, below the project's state directory."""
    return state / "gateway" / name


def load_gateway(folder: Path) -> Gateway:
    """The gateway that runs from ``folder``.

    Raises:
        InfrastructureError: none does; the command that starts one is named.
    """
    file = folder / RECORD
    try:
        gateway = Gateway.model_validate_json(file.read_bytes())
        written_s = file.stat().st_mtime
    except FileNotFoundError:
        raise InfrastructureError(f"no gateway runs for {folder.name}; start one: {_command(folder)}") from None
    except (OSError, ValidationError) as error:
        reason = getattr(error, "strerror", None) or "it is damaged, or another version's"
        raise InfrastructureError(
            f"{file} cannot be read: {reason}; end that gateway and start it anew: {_command(folder)}"
        ) from error
    if not _lives(gateway.pid, written_s):
        raise InfrastructureError(
            f"the gateway for {folder.name} (process {gateway.pid}) has died; start it anew: {_command(folder)}"
        )
    return gateway


@contextmanager
def only_gateway(folder: Path) -> Iterator[None]:
    """Be the one gateway of ``folder``, which is made where it is missing; what one that was killed left is removed.

    Raises:
        BadInputError: another one runs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, timeout=0):
            (folder / RECORD).unlink(missing_ok=True)
            try:
                yield
            finally:
                (folder / RECORD).unlink(missing_ok=True)
    except Timeout:
        raise BadInputError(
            f"a gateway for {folder.name} runs already ({_pid(folder)}); use it, or end it with SIGTERM first"
        ) from None


def publish(gateway: Gateway) -> None:
    """Let others find the gateway, which is ready."""
    replace(gateway.folder / RECORD, gateway.model_dump_json(indent=2))


def replace(file: Path, text: str) -> None:
    """Give ``file`` another content in one step: who reads it finds the whole of the old or of the new one."""
    # In the directory above: whoever watches the file's own one sees a single change there.
    with tempfile.NamedTemporaryFile("w", dir=file.parent.parent, delete=False, encoding="utf-8") as written:
        try:
            written.write(text)
            written.flush()
            os.fsync(written.fileno())
            Path(written.name).replace(file)
        except BaseException:
            Path(written.name).unlink(missing_ok=True)
            raise


def _command(folder: Path) -> str:
    name, _, target = folder.name.rpartition(".")
    return f"`slipway gateway {name} --target {target}`"


def _pid(folder: Path) -> str:
    try:
        return f"process {load_gateway(folder).pid}"
    except InfrastructureError:
        return "it is starting or ending"


def _lives(pid: int, since_s: float) -> bool:
    """Whether the process that wrote something at ``since_s`` still runs; a number may have gone to another one."""
    try:
        return bool(psutil.Process(pid).create_time() <= since_s + 1)  # the clocks of file and process differ a little
    except psutil.NoSuchProcess:
        return False
