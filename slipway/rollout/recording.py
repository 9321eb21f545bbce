"""What stays of a rollout in the registry: tags on the challenger's version, and at the end its whole course."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from slipway.errors import BadInputError
from slipway.records import Rollout
from slipway.reports.rollout_plot import write_rollout_plot
from slipway.rollout.store.rollouts import RolloutStore, rollout_jsonl
from slipway.stores.registry import Registry

BRIEF_CHARACTERS = 500  # MLflow refuses longer tags, at a length that its stores set


def tag_version(registry: Registry, rollout: Rollout) -> None:
    """Tell with the challenger's version where the rollout stands, and why."""
    told = {
        "rollout": rollout.rollout_id,
        "rollout_phase": rollout.phase.value,
        "rollout_step": str(rollout.step),
        "rollout_share": f"{rollout.share_percent:g}%",
        "rollout_reasons": "; ".join(rollout.reasons)[:BRIEF_CHARACTERS],
    }
    for key, value in told.items():
        registry.tag(rollout.name, rollout.challenger.version, f"slipway.{key}", value)


def record_course(registry: Registry, store: RolloutStore, rollout: Rollout) -> None:
    """Keep every saved state, and the plot of what they were decided on, in a run that the version links to."""
    history = store.history(rollout.rollout_id)
    with TemporaryDirectory(prefix="slipway-rollout-") as folder:
        files = [Path(folder) / "rollout.jsonl"]
        files[0].write_text(rollout_jsonl(store, rollout.rollout_id), encoding="utf-8")
        for name in ("rollout.png", "rollout.html"):
            with suppress(BadInputError):  # nothing was seen
                write_rollout_plot(history, Path(folder) / name)
                files.append(Path(folder) / name)
        registry.record_rollout(rollout, files)
