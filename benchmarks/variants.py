"""Release the example CNN, transformer and LSTM, and write into README.md what each variant keeps, weighs and gains.

Run it on an idle machine: ``.venv/bin/python benchmarks/variants.py``. It takes about half an hour, most of it for
int8-qat, int8-mixed and the timing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from examples import README, ROOT, VERDICTS, line, machine, write

from slipway.examples import example as example_of
from slipway.measure.hardware import describe
from slipway.variants import VARIANTS

NETWORKS = {
    "cifar10": "CNN (ResNet-56, CIFAR-10)",
    "fashion": "transformer (Fashion-MNIST)",
    "ecg5000": "LSTM (ECG5000)",
}
COMPUTES_IN_FP16 = "avx512_fp16" in describe({}).isa
HEADINGS = (
    *("network", "variant", "top-1", "drop ≤", "size MB", "speed-up", "fastest on", "executed", "verdict"),
    "smallest file",
)


def release(example: str) -> dict[str, Any]:
    """What a release of ``example`` with every variant comes to, measured anew; as `slipway release --json` tells it.

    int8-qat is left out where the example has no training data, and fp16 where the CPU does not compute in it:
    PyTorch's convolution then takes thirty times as long as in fp32, and a test set an hour.
    """
    model = _slipway("demo", example, "--prepare-only", "--json")["model"]
    params = yaml.safe_load((ROOT / example_of(example).params).read_text(encoding="utf-8"))
    learns = "training" in params["data"]
    params["variants"] = [
        kind.name
        for kind in VARIANTS.values()
        if (learns or not kind.needs_training) and (kind.name != "fp16" or COMPUTES_IN_FP16)
    ]
    params["qat"] = {"epochs": 1}  # of the default three: two thirds of the script's time
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "params.yaml")
        path.write_text(yaml.safe_dump(params), encoding="utf-8")
        return _slipway("release", model, "--params", str(path), "--json", "--fresh")


def _slipway(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "slipway.cli", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False)
    if done.returncode not in VERDICTS:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def rows(network: str, target: dict[str, Any]) -> Iterable[tuple[str, ...]]:
    """The reference, then each variant on the engine where it is fastest among those that pass, if any passes."""
    yield network, "reference", f"{target['reference']['value']:.4f}", "", "", "1", "eager fp32", "", "", ""
    fp32_bytes = {one["engine"]: one["size_bytes"] for one in target["candidates"] if one["variant"] == "fp32"}
    for variant in dict.fromkeys(candidate["variant"] for candidate in target["candidates"]):
        of_it = [candidate for candidate in target["candidates"] if candidate["variant"] == variant]
        best = max(of_it, key=_merit)
        yield (*_row(network, best), _smallest(of_it, fp32_bytes))


def _merit(candidate: dict[str, Any]) -> tuple[bool, float, bool]:
    return candidate["verdict"] == "PASS", candidate["speedup"] or 0.0, candidate["accuracy"] is not None


def _smallest(candidates: Iterable[dict[str, Any]], fp32_bytes: Mapping[str, int]) -> str:
    """Of the files that pass, the size of the smallest beside the fp32 file of its own engine."""
    passed = [one for one in candidates if one["verdict"] == "PASS" and one["engine"] in fp32_bytes]
    if not passed:
        return "-"
    least = min(passed, key=lambda one: one["size_bytes"])
    return f"{least['size_bytes'] / fp32_bytes[least['engine']]:.3f} of fp32 ({least['engine']})"


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
    measured = f"Measured on {'; '.join(dict.fromkeys(machines))}, batch 1, against eager fp32 PyTorch."
    ratio = "The smallest file is told beside the fp32 file of the same engine."
    without = "" if COMPUTES_IN_FP16 else " This CPU does not compute in float16: fp16 is left out."
    lines += ["", f"{measured} {ratio}{without}", ""]
    write(README, "variants", "benchmarks/variants.py", "\n".join(lines))


if __name__ == "__main__":
    main()
