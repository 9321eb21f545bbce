"""``slipway link``: addresses from which a device fetches a published engine for a time, without keys of its own."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from slipway.cli.console import Spare, out, print_json, print_table
from slipway.cli.publish import PlaceOption, bundle_store
from slipway.cli.release import JsonOption, duration_seconds
from slipway.cli.step import TargetOption
from slipway.records.bundle import BundleManifest
from slipway.stores.registry import CHAMPION, check_digest_prefix, version_with
from slipway.stores.s3_bundles import Link, StoredBundle, check_link_seconds, digest_with
from slipway.wiring import Workshop, workshop

NARROWER = (Spare("MB"), Spare("sha256", lambda digest: digest[:12]))  # the whole sums follow below


def add_commands(app: typer.Typer) -> None:
    """Add ``link``."""
    app.command()(link)


def link(
    name: Annotated[str, typer.Argument(help="The source model, such as digits-resnet.")],
    target: TargetOption,
    digest: Annotated[str | None, typer.Option(help="The engine's sha256, or its start (default: champion's).")] = None,
    expires: Annotated[
        float, typer.Option(parser=duration_seconds, metavar="DURATION", help="How long, at most 168h.")
    ] = "1h",  # type: ignore[assignment]  # typer parses the default as well
    to: PlaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time-limited links to a published engine, and the commands with which a device fetches and checks it."""
    check_link_seconds(expires)
    shop = workshop()
    store = bundle_store(shop, to)
    store.check()
    bundles = store.bundles(name, target)
    manifest = _chosen(shop, name, target, digest, bundles)
    until = datetime.now(UTC) + timedelta(seconds=expires)
    links = store.links(manifest, int(expires))
    if as_json:
        listed = [one.file.model_dump() | {"url": one.url} for one in links]
        about = {"name": name, "target": target, "version": manifest.version, "digest": manifest.digest}
        print_json({**about, "expires_at": until.isoformat(timespec="seconds"), "links": listed})
        return
    rows = [(one.file.name, f"{one.file.size_bytes / 1e6:.2f}", one.file.sha256) for one in links]
    title = f"{name}.{target} version {manifest.version}; the links end at {until:%Y-%m-%d %H:%M:%S} UTC"
    print_table(("file", "MB", "sha256"), rows, title, NARROWER)
    for line in fetching(links):
        out.print(line, highlight=False)


def fetching(links: Iterable[Link]) -> list[str]:
    """The shell commands that fetch the files into the current directory and check them."""
    every = list(links)
    fetched = [f"curl -fsS --create-dirs -o {one.file.name} {shlex.quote(one.url)}" for one in every]
    sums = [f"{one.file.sha256}  {one.file.name}" for one in every]
    return [*fetched, "sha256sum -c <<'END'", *sums, "END"]


def _chosen(shop: Workshop, name: str, target: str, digest: str | None, bundles: list[StoredBundle]) -> BundleManifest:
    if digest is None:
        registered = f"{name}.{target}"
        version = version_with(shop.registry, registered, CHAMPION)
        prefix = shop.registry.version(registered, version).digest
    else:
        check_digest_prefix(prefix := digest)
    there = ", ".join(one.digest[:12] for one in bundles if one.manifest is not None) or "none"
    what = f"engine {prefix[:12]} of {name} on {target}" + ("" if digest else ", the champion,")
    return digest_with(
        bundles,
        prefix,
        f"{what} is not published; published: {there}; run `slipway step publish {name} --target {target} "
        "--format bundle`",
    )
