"""``slipway step publish``: an engine of the registry, packed for a server that is not Slipway's own."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from slipway.cli.console import tell
from slipway.cli.step import TargetOption
from slipway.cli.step import app as step
from slipway.serving import torchserve_handler
from slipway.steps.publish import publish_mar
from slipway.stores.registry import CHAMPION
from slipway.wiring import workshop


class PackageFormat(StrEnum):
    """What an engine can be packed as."""

    MAR = "mar"


def add_commands(_: typer.Typer) -> None:
    """Add ``step publish``."""
    step.command()(publish)


def publish(
    name: Annotated[str, typer.Argument(help="The source model, such as digits-resnet.")],
    target: TargetOption,
    kind: Annotated[PackageFormat, typer.Option("--format", help="mar: a model archive for TorchServe.")],
    alias: Annotated[str, typer.Option(help="Which version: champion, challenger or previous.")] = CHAMPION,
    out: Annotated[Path, typer.Option(help="The directory to write to.")] = Path("published"),
) -> None:
    """Pack an engine of the registry for a server that is not Slipway's own."""
    assert kind is PackageFormat.MAR, "the only one there is"
    handler = Path(torchserve_handler.__file__)
    archive = publish_mar(workshop().registry, f"{name}.{target}", alias, handler, out)
    tell(f"{archive}: {archive.stat().st_size / 1e6:.2f} MB")
