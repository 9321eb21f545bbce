"""``slipway serve``: the engines that bear aliases, behind the Open Inference Protocol."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from io import FileIO
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from slipway.cli.console import print_json, tell
from slipway.cli.release import JsonOption
from slipway.errors import BadInputError
from slipway.stores.registry import CHAMPION
from slipway.wiring import host_hardware, workshop

if TYPE_CHECKING:
    from slipway.serving.http.limits import Limits
    from slipway.serving.processes.following import Entries, Follower
    from slipway.serving.processes.supervisor import Supervisor

PORT = 8000


def add_commands(app: typer.Typer) -> None:
    """Add ``serve``."""
    app.command()(serve)


def serve(  # noqa: PLR0913, PLR0917 - each is an option that a person gives by its name
    name: Annotated[str | None, typer.Argument(help="The source model, such as digits-resnet.")] = None,
    target: Annotated[str | None, typer.Option(help="The target whose engine is served.")] = None,
    alias: Annotated[str, typer.Option(help="Which version: champion, challenger or previous.")] = CHAMPION,
    models: Annotated[Path | None, typer.Option(help="Serve the models of this YAML file, in place of NAME.")] = None,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 takes a free one.")] = PORT,
    poll_s: Annotated[float, typer.Option(min=0, help="Look so often whether an alias moved; 0: on SIGHUP alone.")] = 5,
    max_batch: Annotated[int, typer.Option(min=1, help="The most examples that one request may hold.")] = 128,
    max_body_mb: Annotated[float, typer.Option(min=0.001, help="The most megabytes that one request may hold.")] = 64,
    max_waiting: Annotated[int, typer.Option(min=1, help="Beyond so many waiting requests: 503.")] = 64,
    timeout_s: Annotated[float, typer.Option(min=0.001, help="The longest wait for an answer.")] = 30,
    batching: Annotated[
        str, typer.Option(help="Answer waiting requests together: off, auto (as the release found best), N or N:MS.")
    ] = "off",
    as_json: JsonOption = False,
    access_log: Annotated[Path | None, typer.Option(help="Append a JSON object per answer; - is stdout.")] = None,
) -> None:
    """Serve registered engines: the Open Inference Protocol (version 2), as Triton and KServe speak it.

    Clients such as tritonclient work unchanged. Prometheus finds its figures at /metrics. When the alias moves, the
    engine that it names then takes over between two requests. SIGHUP looks at the aliases, and reads --models, at once.
    SIGTERM lets it answer what it has taken, and ends it with 0, as does Ctrl-C.
    """
    # Imported here: a web server is more than the other commands want to wait for.
    from slipway.serving.http.server import address, bound
    from slipway.serving.http.tracing import traces_of
    from slipway.serving.processes.following import Follower
    from slipway.serving.processes.supervisor import Supervisor

    if (traces := traces_of(os.environ)) is not None:
        traces.close()  # the process that answers has its own; here it is found out whether that can be
    entries = _entries(name, target, alias, models)
    _require_finite({"--max-body-mb": max_body_mb, "--timeout-s": timeout_s, "--poll-s": poll_s})
    limits = _limits(max_body_mb, max_batch, max_waiting, timeout_s, batching)
    signal.signal(signal.SIGTERM, _ended)  # also while the model is opened nothing may be left behind
    hang_ups = _HangUps()
    signal.signal(signal.SIGHUP, hang_ups.keep)
    with (
        _opened(access_log) as log,
        TemporaryDirectory(prefix="slipway-serve-", ignore_cleanup_errors=True) as folder,
        bound(host, port) as listening,
        Supervisor(listening, limits, Path(folder), None if log is None else log.fileno(), _tell) as supervisor,
    ):
        follower = Follower(workshop().registry, entries, host_hardware(), Path(folder), supervisor.submit)
        _open(supervisor, follower, address(listening), in_list=models is not None, as_json=as_json)
        with _signals(supervisor, follower, hang_ups), follower.following(poll_s):
            status = supervisor.run(follower.fetch_again)
    if status:
        raise typer.Exit(status)


def _require_finite(given: Mapping[str, float]) -> None:
    for option, value in given.items():
        if not math.isfinite(value):
            raise BadInputError(f"{option} is {value}; give a finite number")


def _limits(max_body_mb: float, max_batch: int, max_waiting: int, timeout_s: float, batching: str) -> Limits:
    from slipway.serving.answering.batching import read_batching
    from slipway.serving.http.limits import Limits

    return Limits(
        body_bytes=int(max_body_mb * 1e6),
        batch=max_batch,
        waiting=max_waiting,
        request_seconds=timeout_s,
        batching=read_batching(batching),
    )


def _entries(name: str | None, target: str | None, alias: str, models: Path | None) -> Entries:
    """What reads which models are served.

    Raises:
        BadInputError: neither a model and its target was given, nor a file, or both were.
    """
    from slipway.serving.processes.models_file import ModelEntry, read_models

    if models is not None:
        if name is not None or target is not None or alias != CHAMPION:
            raise BadInputError(f"--models {models} tells every model with its target and alias; give it alone")
        return partial(read_models, models)
    if name is None or target is None:
        raise BadInputError("which model is to be served? give NAME --target T, or --models FILE")
    entry = ModelEntry(name=name, target=target, alias=alias)
    return lambda: (entry,)


def _open(supervisor: Supervisor, follower: Follower, place: str, *, in_list: bool, as_json: bool) -> None:
    """Open the first engines, and tell what is served where."""
    engines = follower.first()
    notes = supervisor.open(engines)
    if as_json:
        told = [{"model": one.name, "version": one.version, "digest": one.evidence.digest} for one in engines]
        print_json({"models": told, "address": place} if in_list else told[0] | {"address": place})
        sys.stdout.flush()  # whoever waits for it cannot wait for the end
    for engine in engines:
        for note in notes[engine.name]:
            tell(f"{engine}: {note}")
        tell(f"{engine} ({str(engine.evidence.digest)[:12]}) at {place}")


def _tell(line: str) -> None:
    """One line on stderr, if anybody still reads it: serving goes on."""
    with suppress(OSError, ValueError):
        tell(line)


class _HangUps:
    """Keeps a SIGHUP, which would end the command and leave its files behind, until `_signals` can answer it.

    It means that somebody wants a look, or that the ``terminal``, if there is one, was closed.
    """

    def __init__(self) -> None:
        self.terminal, self.came = sys.stderr.isatty(), False

    def keep(self, *_: object) -> None:
        """Handle the signal."""
        self.came = True


@contextmanager
def _signals(supervisor: Supervisor, follower: Follower, hang_ups: _HangUps) -> Iterator[None]:
    """SIGTERM and Ctrl-C end ``supervisor``, a second Ctrl-C at once; SIGHUP lets ``follower`` look."""
    interrupted = False

    def end(number: int, _: FrameType | None) -> None:
        nonlocal interrupted
        supervisor.end(at_once=interrupted and number == signal.SIGINT)
        interrupted = interrupted or number == signal.SIGINT

    def look(number: int, frame: FrameType | None) -> None:
        if hang_ups.terminal and not os.isatty(sys.stderr.fileno()):  # the terminal was closed
            end(number, frame)
        else:
            follower.look_now()

    handlers = {signal.SIGTERM: end, signal.SIGINT: end, signal.SIGHUP: look}
    for number, handler in handlers.items():
        signal.signal(number, handler)
    if hang_ups.came:
        look(signal.SIGHUP, None)
    try:
        yield
    finally:
        for number in handlers:  # what is left is the cleaning up
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def _opened(access_log: Path | None) -> Iterator[FileIO | None]:
    """The access log without a buffer, or None for none."""
    if access_log is None:
        yield None
        return
    try:
        log = FileIO(os.dup(sys.stdout.fileno()), "w") if str(access_log) == "-" else FileIO(access_log, "a")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInputError(f"cannot write the access log {access_log}: {reason}; give another --access-log") from error
    with log:
        yield log


def _ended(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one must not end the cleaning up
    sys.exit(128 + number)
