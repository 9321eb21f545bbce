"""``slipway step publish``: an engine of the registry, packed for a server or a device that is not Slipway's own."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from slipway.cli import ending
from slipway.cli.console import print_json, tell
from slipway.cli.progress import progress
from slipway.cli.release import JsonOption
from slipway.cli.step import TargetOption
from slipway.cli.step import app as step
from slipway.errors import BadInputError
from slipway.serving import torchserve_handler
from slipway.steps.publish import publish_mar
from slipway.steps.publish_bundle import publish_bundle
from slipway.stores.registry import CHAMPION
from slipway.stores.s3_bundles import BundleStore
from slipway.stores.s3_connection import parse_place, s3_client
from slipway.wiring import Workshop, workshop

DEFAULT_OUT = Path("published")
PlaceOption = Annotated[
    str | None,
    typer.Option(
        "--to",
        metavar="s3://BUCKET[/PREFIX]",
        help="Where bundles lie; the prefix is engines unless told (default: s3://$SLIPWAY_BUCKET/engines).",
    ),
]


class PackageFormat(StrEnum):
    """What an engine can be packed as."""

    MAR = "mar"
    BUNDLE = "bundle"


def add_commands(_: typer.Typer) -> None:
    """Add ``step publish``."""
    step.command()(publish)


def publish(
    name: Annotated[str, typer.Argument(help="The source model, such as digits-resnet.")],
    target: TargetOption,
    kind: Annotated[
        PackageFormat,
        typer.Option("--format", help="mar: a model archive for TorchServe; bundle: the files in S3, with a manifest."),
    ],
    alias: Annotated[str, typer.Option(help="Which version: champion, challenger or previous.")] = CHAMPION,
    out: Annotated[Path | None, typer.Option(help="mar: the directory to write to (default: published).")] = None,
    to: PlaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Pack an engine of the registry for a server or a device that is not Slipway's own."""
    if kind is PackageFormat.BUNDLE:
        if out is not None:
            raise BadInputError("--out is for --format mar; a bundle goes --to s3://BUCKET")
        _publish_bundle(name, target, alias, to, as_json)
        return
    if to is not None:
        raise BadInputError("--to is for --format bundle; a model archive goes to the directory --out")
    handler = Path(torchserve_handler.__file__)
    archive = publish_mar(workshop().registry, f"{name}.{target}", alias, handler, out or DEFAULT_OUT)
    tell(f"{archive}: {archive.stat().st_size / 1e6:.2f} MB")
    if as_json:
        print_json({"path": str(archive), "size_bytes": archive.stat().st_size})


def bundle_store(shop: Workshop, to: str | None) -> BundleStore:
    """The bundles where ``--to`` or the environment says.

    Raises:
        BadInputError: neither says so, or they name no place in S3.
    """
    place = parse_place(to)
    return BundleStore(s3_client(), place, shop.state / "uploads")


def _publish_bundle(name: str, target: str, alias: str, to: str | None, as_json: bool) -> None:
    shop = workshop()
    store = bundle_store(shop, to)
    ending.prepare()
    with progress():
        done = publish_bundle(shop.registry, shop.objects, name, target, alias, store)
    if as_json:
        print_json({"uri": done.uri, "written": done.written, "manifest": done.manifest.model_dump(mode="json")})
    elif done.written:
        tell(f"{done.uri}: {done.manifest.size_bytes / 1e6:.2f} MB, version {done.manifest.version}")
    else:
        tell(f"{done.uri} is there already, as version {done.manifest.version}, and every file of it is right")
