"""Release both examples and write their tables into README.md: the source of every figure there.

Run it on an idle machine: ``.venv/bin/python benchmarks/examples.py``. It takes a few minutes.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
EXAMPLES = ("digits", "cifar10")
HEADINGS = ("variant", "engine", "top-1", "drop ≤", "p50 ms", "p99 ms", "speed-up", "size MB", "verdict")

VERDICTS = (0, 3, 4)  # exit statuses of PASS, FAIL and INCONCLUSIVE


def release(example: str) -> dict[str, Any]:
    """What ``slipway demo EXAMPLE --json --fresh`` prints: everything measured anew.

    A verdict other than PASS is a finding too: the table tells it.
    """
    command = [sys.executable, "-m", "slipway.cli", "demo", example, "--json", "--fresh"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False)
    if done.returncode not in VERDICTS:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def table(result: dict[str, Any]) -> str:
    """The candidates of each target as Markdown, the chosen one in bold, with the machine below."""
    lines = []
    for target in result["targets"].values():
        reference, hardware = target["reference"], target["hardware"]
        lines += [line(HEADINGS), line("---" for _ in HEADINGS)]
        p50, p99 = (f"{reference[name]:.3f}" for name in ("latency_p50_ms", "latency_p99_ms"))
        lines += [line(("reference", "eager fp32", f"{reference['value']:.4f}", "", p50, p99, "1", "", ""))]
        lines += [line(_row(c, c["digest"] == target["chosen"])) for c in target["candidates"] if c["digest"]]
        skipped = [f"{c['variant']}/{c['engine']}" for c in target["candidates"] if not c["digest"]]
        lines += [
            "",
            f"Measured on {machine(hardware)}, batch 1. Skipped, each with its reason: {', '.join(skipped)}.",
            "",
        ]
    return "\n".join(lines)


def _row(candidate: dict[str, Any], chosen: bool) -> list[str]:
    accuracy, latency = candidate["accuracy"], candidate["latency"]
    cells = [
        candidate["variant"],
        candidate["engine"],
        f"{accuracy['value']:.4f}",
        f"{accuracy['drop_upper']:+.4f}",
        f"{latency['p50_ms']:.3f}",
        f"{latency['p99_ms']:.3f}" if latency["p99_ms"] is not None else "-",
        f"{candidate['speedup']:.2f}x",
        f"{candidate['size_bytes'] / 1e6:.2f}",
        candidate["verdict"],
    ]
    return [f"**{cell}**" for cell in cells] if chosen else cells


def line(cells: Iterable[str]) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def machine(hardware: dict[str, Any]) -> str:
    """What was measured on, in words."""
    return f"{hardware['cpu']}, {hardware['cores']} cores, {', '.join(hardware['isa'])}"


def write(document: Path, name: str, script: str, fresh: str) -> None:
    """Put ``fresh`` between the markers of ``name`` in ``document``."""
    text = document.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}: {script} -->", f"<!-- {name}: end -->"
    text, found = re.subn(f"{begin}.*?{end}", lambda _: f"{begin}\n{fresh}{end}", text, flags=re.DOTALL)
    if found != 1:
        raise SystemExit(f"{document} has {found} places marked {begin} ... {end}; it should have one")
    document.write_text(text, encoding="utf-8")


def main() -> None:
    """Replace what stands between the markers of each example in README.md."""
    for example in EXAMPLES:
        write(README, example, "benchmarks/examples.py", table(release(example)))


if __name__ == "__main__":
    main()
