"""How far the builds of one candidate differ, in words: some engines pick kernels by timing them and vary."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from slipway.records import Accuracy, Artifact, Rebuild


def builds_told(builds: int, files: Sequence[Artifact]) -> tuple[str, ...]:
    """What ``builds`` builds gave, of which ``files`` are the distinct ones; nothing to tell of a single build."""
    if builds == 1:
        return ()
    if len(files) == 1:
        return (f"{builds} builds gave the same bytes",)
    sizes = _span([artifact.size_bytes for artifact in files], ",")
    return (f"{builds} builds, {len(files)} different files of {sizes} bytes; the first is kept",)


def rebuilds_told(accuracy: Accuracy | None, rebuilds: Sequence[Rebuild]) -> tuple[str, ...]:
    """What was measured on the further files that builds gave, beside the kept one of ``accuracy``."""
    told = []
    values = [rebuild.accuracy for rebuild in rebuilds if rebuild.accuracy is not None]
    if accuracy and values:
        told.append(f"{accuracy.metric} {_span(values, '.4f')} (kept: {accuracy.value:.4f})")
    ratios = [rebuild.latency_ratio.value for rebuild in rebuilds if rebuild.latency_ratio is not None]
    if ratios:
        untimed = len(rebuilds) - len(ratios)
        told.append(
            f"latency {_span(ratios, '.2f')} of the kept one's" + (f" ({untimed} not timed)" if untimed else "")
        )
    return (f"other builds: {', '.join(told)}",) if told else ()


def _span(values: Iterable[float], style: str) -> str:
    """The lowest and the highest, or the one figure where both read the same."""
    ordered = sorted(values)
    lowest, highest = format(ordered[0], style), format(ordered[-1], style)
    return lowest if lowest == highest else f"{lowest} to {highest}"
