"""``slipway serve``: the engine that bears an alias, behind the Open Inference Protocol."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Annotated

import typer

from slipway.cli.console import print_json, tell
from slipway.cli.release import JsonOption
from slipway.errors import BadInputError, InfrastructureError
from slipway.stores.registry import CHAMPION
from slipway.wiring import host_hardware, workshop

PORT = 8000


def add_commands(app: typer.Typer) -> None:
    """Add ``serve``."""
    app.command()(serve)


def serve(  # noqa: PLR0913, PLR0917 - each is an option that a person gives by its name
    name: Annotated[str, typer.Argument(help="The source model, such as digits-resnet.")],
    target: Annotated[str, typer.Option(help="The target whose engine is served.")],
    alias: Annotated[str, typer.Option(help="Which version: champion, challenger or previous.")] = CHAMPION,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 takes a free one.")] = PORT,
    max_batch: Annotated[int, typer.Option(min=1, help="The most examples that one request may hold.")] = 128,
    max_body_mb: Annotated[float, typer.Option(min=0.001, help="The most megabytes that one request may hold.")] = 64,
    max_waiting: Annotated[int, typer.Option(min=1, help="Beyond so many waiting requests: 503.")] = 64,
    timeout_s: Annotated[float, typer.Option(min=0.001, help="The longest wait for an answer.")] = 30,
    as_json: JsonOption = False,
    access_log: Annotated[Path | None, typer.Option(help="Append a JSON object per answer; - is stdout.")] = None,
) -> None:
    """Serve a registered engine: the Open Inference Protocol (version 2), as Triton and KServe speak it.

    Clients such as tritonclient work unchanged. Prometheus finds its figures at /metrics. SIGTERM lets it answer what
    it has taken, and ends it with 0, as does Ctrl-C.
    """
    # Imported here: a web server is more than the other commands want to wait for.
    from slipway.serving.limits import Limits
    from slipway.serving.served import open_registered
    from slipway.serving.server import address, bound
    from slipway.serving.server import serve as serve_model

    for option, value in (("--max-body-mb", max_body_mb), ("--timeout-s", timeout_s)):
        if not math.isfinite(value):
            raise BadInputError(f"{option} is {value}; give a finite number")
    limits = Limits(body_bytes=int(max_body_mb * 1e6), batch=max_batch, waiting=max_waiting, request_seconds=timeout_s)
    signal.signal(signal.SIGTERM, _ended)  # also while the model is opened nothing may be left behind
    with (
        _opened(access_log) as log,
        TemporaryDirectory(prefix="slipway-serve-") as folder,
        bound(host, port) as listening,
    ):
        model = open_registered(workshop().registry, f"{name}.{target}", alias, host_hardware(), Path(folder))
        place = address(listening)
        if as_json:
            print_json({"model": model.name, "version": model.version, "digest": model.digest, "address": place})
            sys.stdout.flush()  # whoever waits for it cannot wait for the end
        tell(f"{model.name} version {model.version} ({model.digest[:12]}) at {place}")
        if model.cold is not None:
            tell(f"the first request will find the engine cold: {model.cold}")
        drained = serve_model(model, limits, listening, log)
    if not drained:
        tell(f"the engine had not answered after {limits.drain_seconds:g} s; its call was left")
        os._exit(InfrastructureError.exit_code)  # Python would wait for the engine's thread


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
