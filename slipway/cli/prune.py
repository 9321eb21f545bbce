"""``slipway prune``: which published engines would go, and why the rest stays; with --delete they go."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from slipway.cli.console import out, print_json, print_table, tell
from slipway.cli.publish import PlaceOption, bundle_store
from slipway.cli.release import DEFAULT_PARAMS, JsonOption
from slipway.errors import BadInputError
from slipway.steps.prune import Plan, RegisteredVersions, carry_out, plans
from slipway.steps.prune_objects import UnusedObject, remove_objects, unused_objects
from slipway.wiring import Workshop, project_params, workshop

HEADINGS = ("", "engine", "digest", "MB", "age", "why")
HOUR_SECONDS, DAY_SECONDS = 3600, 24 * 3600


def add_commands(app: typer.Typer) -> None:
    """Add ``prune``."""
    app.command()(prune)


def prune(  # noqa: PLR0913, PLR0917 - each option of the command is an argument
    name: Annotated[str | None, typer.Argument(help="The source model, such as digits-resnet.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every model that is published there.")] = False,
    target: Annotated[str | None, typer.Option(help="Only this target.")] = None,
    keep: Annotated[int, typer.Option(help="How many of the newest versions stay, whatever became of them.")] = 3,
    delete: Annotated[bool, typer.Option("--delete", help="Delete; without it, only tell.")] = False,
    to: PlaceOption = None,
    objects: Annotated[
        bool, typer.Option("--objects", help="Instead: files of this project's releases, unused for two weeks.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Tell which published engines nobody needs, and with --delete delete them; MLflow keeps everything."""
    shop = workshop()
    if objects:
        if name is not None or every or target is not None or to is not None:
            raise BadInputError("--objects is about this project's own files; give it alone, or with --delete")
        _prune_objects(shop, delete, as_json)
        return
    if (name is None) is not every:
        raise BadInputError("prune what? give a model's NAME, or --all; or --objects for this project's own files")
    store = bundle_store(shop, to)
    versions = RegisteredVersions(shop.registry, shop.registry.tracking_uri)
    planned = plans(store, versions, name, target, keep)
    deleted = {one.digest for plan in planned if delete for one in carry_out(plan, store, versions, keep)}
    told = [bundle for plan in planned for bundle in _told(plan, deleted, delete)]
    if as_json:
        uploads = [one.key for plan in planned for one in plan.abandoned]
        print_json({"deleted": delete, "bundles": told, "abandoned_uploads": uploads})
        return
    print_table(HEADINGS, [_row(bundle) for bundle in told], f"bundles in {store.place}")
    going = [bundle for bundle in told if bundle["state"] in {"goes", "deleted"}]
    uploads_count, freed = sum(len(plan.abandoned) for plan in planned), sum(one["size_bytes"] for one in going)
    counted = (
        f"{_counted(len(going), 'bundle')} ({freed / 1e6:.1f} MB) and {_counted(uploads_count, 'abandoned upload')}"
    )
    out.print(f"{counted} {'deleted' if delete else 'would go; to delete them add --delete'}", highlight=False)
    if going:
        tell("the versions, their evidence and engine files stay in MLflow: each can be published again")


def _prune_objects(shop: Workshop, delete: bool, as_json: bool) -> None:
    unused = unused_objects(shop.objects)
    described = DEFAULT_PARAMS.exists() or DEFAULT_PARAMS.with_suffix("").is_dir()
    models = project_params(shop.root) if described else {}
    count = remove_objects(shop.objects, unused, shop.state, models) if delete else len(unused)
    freed = sum(one.size_bytes for one in unused)
    if as_json:
        listed = [{"digest": one.place.name, **_figures(one)} for one in unused]
        print_json({"deleted": delete, "count": count, "size_bytes": freed, "objects": listed})
        return
    ending = "deleted" if delete else "would go; to delete them add --delete"
    out.print(f"{_counted(count, 'object')} ({freed / 1e6:.1f} MB) in {shop.objects.root} {ending}", highlight=False)


def _figures(unused: UnusedObject) -> dict[str, int]:
    return {"size_bytes": unused.size_bytes, "unused_seconds": round(unused.unused_seconds)}


def _row(bundle: dict[str, Any]) -> tuple[str, ...]:
    return (
        bundle["state"],
        f"{bundle['name']}.{bundle['target']}",
        bundle["digest"][:12],
        f"{bundle['size_bytes'] / 1e6:.2f}",
        _age(bundle["age_seconds"]),
        "; ".join(bundle["reasons"]),
    )


def _told(plan: Plan, deleted: set[str], delete: bool) -> list[dict[str, Any]]:
    """Every bundle with what becomes of it, those that go first."""
    gone = [(one, "deleted" if one.digest in deleted else "kept" if delete else "goes") for one in plan.retention.gone]
    listed = []
    for judged, state in [*gone, *((one, "stays") for one in plan.retention.kept)]:
        bundle = plan.bundle(judged.digest)
        spared = ("an alias moved to it, or somebody published or deleted it, while this ran",)
        kept_now = spared if state == "kept" else ()
        listed.append(
            {
                "state": state,
                "name": plan.name,
                "target": plan.target,
                "digest": judged.digest,
                "version": bundle.manifest.version if bundle.manifest else None,
                "size_bytes": bundle.size_bytes,
                "age_seconds": round(bundle.age_seconds),
                "reasons": [*kept_now, *judged.reasons],
            }
        )
    return listed


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _age(seconds: float) -> str:
    if seconds < HOUR_SECONDS:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / HOUR_SECONDS:.0f} h" if seconds < DAY_SECONDS else f"{seconds / DAY_SECONDS:.0f} d"
