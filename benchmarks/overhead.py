"""What orchestration adds to a release: its wall time less the time in which some step computes.

Run it on an idle machine: ``.venv/bin/python benchmarks/overhead.py``. It takes some minutes and writes its table into
docs/guides/team.md.

Steps run two at a time, so that the sum of their seconds may exceed the wall time; what is subtracted is the union of
the intervals in which they ran. Each release runs in a process of its own and in one project; Prefect's server has
started before the clock does, and its start is told apart.
"""

from __future__ import annotations

import functools
import importlib
import json
import pkgutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from examples import line, write

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "docs" / "guides" / "team.md"
EXAMPLE = "digits"
Interval = tuple[str, float, float]


def timed(step: Callable[..., Any], name: str, into: list[Interval]) -> Callable[..., Any]:
    """``step``, which leaves behind when it ran."""

    @functools.wraps(step)
    def run(*args: Any, **kwargs: Any) -> Any:
        start = time.monotonic()
        try:
            return step(*args, **kwargs)
        finally:
            into.append((name, start, time.monotonic()))

    return run


def watch(module: ModuleType, into: list[Interval]) -> None:
    """Time what the tasks of ``module`` call of the library, in this process or in one of its own."""
    name = module.__name__.rpartition(".")[2]
    if isolated := getattr(module, "isolated", None):
        # A step is pickled by its name, so the call that waits for its process is what is timed.
        module.isolated = lambda step, *limit: timed(isolated(step, *limit), name, into)  # type: ignore[attr-defined]
        return
    for attribute in [one for one in vars(module) if one.endswith("_step")]:
        setattr(module, attribute, timed(getattr(module, attribute), name, into))


def union_seconds(intervals: Iterable[Interval]) -> float:
    """For how long at least one of them was running."""
    total, until = 0.0, float("-inf")
    for _, start, end in sorted(intervals, key=lambda one: one[1]):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def child(targets: int, fresh: bool) -> None:
    """One release of the example in the current directory; what it took, as JSON on stdout."""
    from slipway.wiring import embed_prefect

    embed_prefect()
    import tasks
    from slipway.config import load_params
    from slipway.examples import example
    from slipway.wiring import workshop

    ran: list[Interval] = []
    for found in pkgutil.iter_modules(tasks.__path__, "tasks."):
        watch(importlib.import_module(found.name), ran)
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_TASKS_REFRESH_CACHE, temporary_settings

    from flows.release import release

    chosen, shop = example(EXAMPLE), workshop()
    version = chosen.prepare(shop.root, shop.registry, lambda _: None)
    described = load_params(chosen.params)
    (one,) = described.targets.values()
    many = {f"x86-{number}": one for number in range(targets)}
    params = described.model_copy(update={"model": version.uri, "targets": many})
    start = time.monotonic()
    with get_client(sync_client=True) as client:
        client.hello()
    ready = time.monotonic()
    with temporary_settings({PREFECT_TASKS_REFRESH_CACHE: fresh}):
        result = release(params)
    wall = time.monotonic() - ready
    steps = sum(end - begin for _, begin, end in ran)
    told = {"start_up": ready - start, "wall": wall, "busy": union_seconds(ran), "steps": steps, "calls": len(ran)}
    print(json.dumps(told | {"verdict": result.verdict}))


def measured(project: Path, targets: int, *, fresh: bool) -> dict[str, Any]:
    """The seconds of one release in ``project``."""
    command = [sys.executable, __file__, "child", str(targets), *(["fresh"] if fresh else [])]
    done = subprocess.run(command, cwd=project, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        raise SystemExit(f"the release in {project} ended with {done.returncode}")
    told: dict[str, Any] = json.loads(done.stdout)
    print({key: round(value, 2) if isinstance(value, float) else value for key, value in told.items()})
    return told


def table(runs: dict[str, dict[str, Any]]) -> str:
    """The runs as Markdown."""
    headings = ("release of digits", "wall s", "some step computes s", "orchestration s", "share", "start-up s")
    lines = [line(headings), line("---" for _ in headings)]
    for name, run in runs.items():
        rest = run["wall"] - run["busy"]
        figures = (run["wall"], run["busy"], rest)
        cells = (*(f"{figure:.1f}" for figure in figures), f"{100 * rest / run['wall']:.0f}%", f"{run['start_up']:.1f}")
        lines.append(line((name, *cells)))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and keep."""
    with tempfile.TemporaryDirectory() as scratch:
        project = Path(scratch) / "project"
        subprocess.run(["git", "clone", "--quiet", ROOT, project], check=True)
        measured(project, 1, fresh=True)  # trains the model, and compiles what later runs find compiled
        runs = {
            "one target, everything anew": measured(project, 1, fresh=True),
            "the same, unchanged": measured(project, 1, fresh=False),
            "three targets, everything anew": measured(project, 3, fresh=True),
        }
    one, three = runs["one target, everything anew"], runs["three targets, everything anew"]
    extra = ((three["wall"] - three["busy"]) - (one["wall"] - one["busy"])) / 2
    told = table(runs) + f"\nEach further target adds {extra:.1f} s of orchestration.\n"
    print(told)
    write(GUIDE, "overhead", "benchmarks/overhead.py", told)


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(int(sys.argv[2]), "fresh" in sys.argv[3:])
    else:
        main()
