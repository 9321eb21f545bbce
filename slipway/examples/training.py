"""How the examples that are trained here are trained: repeatably, within minutes, on any number of cores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from slipway.examples.recipe import Reporter, Split

if TYPE_CHECKING:
    import torch

    M = TypeVar("M", bound=torch.nn.Module)

Progress: TypeAlias = Callable[[int, int, float], None]
SEED = 0
LABEL_SMOOTHING = 0.05


class Schedule(NamedTuple):
    """How long, in what batches, and at which learning rate at its peak."""

    epochs: int
    batch_size: int
    peak_learning_rate: float


def train_classifier(
    untrained: Callable[[], M],
    optimizer: Callable[[M], torch.optim.Optimizer],
    split: Split,
    schedule: Schedule,
    progress: Progress,
) -> M:
    """The module that ``untrained`` makes, trained, in evaluation mode; ``progress`` gets (epoch, epochs, mean loss).

    The learning rate follows the one-cycle schedule (Smith & Topin 2019). One thread: the weights then do not depend
    on how many cores there are, and two threads on two busy cores are slower than one.
    """
    import torch
    from torch.nn.functional import cross_entropy

    inputs, labels = torch.from_numpy(split.inputs), torch.from_numpy(split.labels)
    epochs, batch_size, peak = schedule
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        module = untrained()
        descent = optimizer(module)
        steps = epochs * -(-len(labels) // batch_size)
        cycle = torch.optim.lr_scheduler.OneCycleLR(descent, peak, steps, pct_start=0.25)
        for epoch in range(1, epochs + 1):
            total = 0.0
            for batch in torch.split(torch.randperm(len(labels)), batch_size):
                loss = cross_entropy(module(inputs[batch]), labels[batch], label_smoothing=LABEL_SMOOTHING)
                descent.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # torch's own annotation is incomplete
                descent.step()
                cycle.step()
                total += loss.item() * len(batch)
            progress(epoch, epochs, total / len(labels))
    return module.eval()


def told(model_name: str, progress: Reporter) -> Progress:
    """The progress of a training, in words."""
    return lambda epoch, epochs, loss: progress(f"training {model_name}: epoch {epoch}/{epochs}, loss {loss:.2f}")


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
