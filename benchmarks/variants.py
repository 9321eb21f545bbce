"""Release the example CNN, transformer and LSTM, and write into README.md what each variant keeps, weighs and gains.

Run it on an idle machine: ``.venv/bin/python benchmarks/variants.py``. It takes about a quarter of an hour.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from examples import README, line, machine, release, write

NETWORKS = {
    "cifar10": "CNN (ResNet-56, CIFAR-10)",
    "fashion": "transformer (Fashion-MNIST)",
    "ecg5000": "LSTM (ECG5000)",
}
HEADINGS = ("network", "variant", "top-1", "drop ≤", "size MB", "speed-up", "fastest on", "executed", "verdict")


def rows(network: str, target: dict[str, Any]) -> Iterable[tuple[str, ...]]:
    """The reference, then each variant on the engine where it is fastest among those that pass, if any passes."""
    yield network, "reference", f"{target['reference']['value']:.4f}", "", "", "1", "eager fp32", "", ""
    for variant in dict.fromkeys(candidate["variant"] for candidate in target["candidates"]):
        of_it = [candidate for candidate in target["candidates"] if candidate["variant"] == variant]
        yield _row(network, max(of_it, key=_merit))


def _merit(candidate: dict[str, Any]) -> tuple[bool, float, bool]:
    return candidate["verdict"] == "PASS", candidate["speedup"] or 0.0, candidate["accuracy"] is not None


def _row(network: str, candidate: dict[str, Any]) -> tuple[str, ...]:
    accuracy, size_bytes, speedup = (candidate[key] for key in ("accuracy", "size_bytes", "speedup"))
    return (
        network,
        candidate["variant"],
        f"{accuracy['value']:.4f}" if accuracy else "-",
        f"{accuracy['drop_upper']:+.4f}" if accuracy else "-",
        f"{size_bytes / 1e6:.2f}" if size_bytes else "-",
        f"{speedup:.2f}x" if speedup else "-",
        candidate["engine"],
        ", ".join(f"{count} {name}" for name, count in candidate["executed_precision"].items()) or "not told",
        candidate["verdict"],
    )


def main() -> None:
    """Replace what stands between the markers in README.md."""
    lines, machines = [line(HEADINGS), line("---" for _ in HEADINGS)], []
    for example, network in NETWORKS.items():
        for target in release(example)["targets"].values():
            lines += [line(row) for row in rows(network, target)]
            machines.append(machine(target["hardware"]))
    lines += ["", f"Measured on {'; '.join(dict.fromkeys(machines))}, batch 1, against eager fp32 PyTorch.", ""]
    write(README, "variants", "benchmarks/variants.py", "\n".join(lines))


if __name__ == "__main__":
    main()
