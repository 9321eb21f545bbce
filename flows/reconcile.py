"""The hourly look for releases that nothing has started: a webhook that was lost, other test data, a run that died."""

from __future__ import annotations

from contextlib import chdir
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from prefect import State, flow
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed, Failed

from flows.place import project_of_the_worker
from flows.prefect_ui import unharmed
from slipway.config import Params, load_params
from slipway.decisions.reconciliation import Due, History, Plan, due
from slipway.errors import BadInputError, SlipwayError
from slipway.records import ReleaseRequest
from slipway.stores.registry import Registry, parse_model_uri
from slipway.wiring import current_data_md5, project_params, workshop
from tasks.events import ask_for_release
from tasks.release_runs import release_runs, requests
from tasks.silent_runs import crash_silent_runs


@dataclass(frozen=True)
class Seen:
    """What was found of one model, and decided; ``trouble`` is why its releases cannot be told."""

    model: str
    file: str
    data_md5: str | None = None
    history: History = field(default_factory=lambda: History(versions=()))
    plan: Plan = field(default_factory=Plan)
    trouble: str | None = None


@flow(name="reconcile")
def reconcile() -> State[None]:
    """Ask for the releases that are due, of every model that a params file of the project describes.

    Completed, unless a model's releases cannot be told, or one was tried in vain too often: that wants a person.

    Raises:
        SlipwayError: the project has no parameters, or a file of them is wrong.
    """
    with chdir(project_of_the_worker()):
        root = Path.cwd()
        unharmed(crash_silent_runs)  # or they would be under way for ever
        registry = workshop().registry
        seen = [look(registry, model, file.relative_to(root)) for model, file in project_params(root).items()]
    unharmed(create_markdown_artifact, report(seen), key="reconcile", description="What was missing")
    asked = [f"{one.model} version {due.version}" for one in seen for due in one.plan.due]
    told = f"asked for {', '.join(asked)}" if asked else "nothing is due"
    wrong = [f"{one.model}: {one.trouble}" for one in seen if one.trouble]
    wrong += [f"{one.model} version {v} is given up: {why}" for one in seen for v, why in one.plan.given_up.items()]
    return Failed(message="\n".join([*wrong, told])) if wrong else Completed(message=told)


def look(registry: Registry, model: str, file: Path) -> Seen:
    """Find what is due of ``model``, as ``file`` describes it, and ask for it."""
    seen = Seen(model, str(file))
    try:
        params = load_params(file)
        alias = parse_model_uri(params.model)[2]
        bearer = registry.resolve(params.model).version if alias else None
        data_md5 = _data_md5(params, model)
        history = History(
            versions=registry.versions(model),
            finished=registry.released(model),
            runs=release_runs(params.model, bearer),
            asked=requests(model),
        )
        plan = due(history, data_md5, datetime.now(UTC), bearer)
        seen = Seen(model, str(file), data_md5, history, plan)
        for one in plan.due:
            ask_for_release(_request(seen, one), f"reconcile:{model}:{one.version}:{data_md5}:{one.attempt}")
    except SlipwayError as error:
        return Seen(model, str(file), seen.data_md5, seen.history, trouble=str(error))
    return seen


def _data_md5(params: Params, model: str) -> str:
    data_md5 = current_data_md5(params, model)
    if data_md5 is None:
        raise BadInputError(f"{params.data.test} is not in {Path.cwd()}; run `dvc pull {params.data.test}` here")
    return data_md5


def _request(seen: Seen, one: Due) -> ReleaseRequest:
    reason = f"reconcile: {one.reason}" + (f", attempt {one.attempt}" if one.attempt > 1 else "")
    return ReleaseRequest(model=f"models:/{seen.model}/{one.version}", params=seen.file, reason=reason)


def report(seen: list[Seen]) -> str:
    """What was looked at and what was decided, as Markdown."""
    lines = ["# What was missing", ""]
    for one in seen:
        lines += [f"## {one.model} ({one.file})", ""]
        if one.trouble:
            lines += [f"- **its releases cannot be told**: {one.trouble}", ""]
            continue
        released = sorted({int(release.version) for release in one.history.finished})
        lines += [
            f"- versions: {', '.join(reversed(one.history.versions)) or 'none'}",
            f"- released: {', '.join(map(str, released)) or 'none'}",
            f"- test data md5 `{one.data_md5}`",
        ]
        lines += [f"- **version {due.version} asked for**, attempt {due.attempt}: {due.reason}" for due in one.plan.due]
        lines += [f"- **version {version} given up**: {why}" for version, why in one.plan.given_up.items()]
        lines += [f"- version {version} left alone: {why}" for version, why in one.plan.left_alone.items()]
        if one.plan == Plan():
            lines += ["- nothing is due"]
        lines += [""]
    return "\n".join(lines)
