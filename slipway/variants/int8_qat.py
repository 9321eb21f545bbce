"""The int8-qat variant: int8-static whose weights and ranges learnt, with int8's rounding, to answer as fp32 does."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from slipway.config import CalibrationParams, QatParams
from slipway.errors import BadInputError, RejectedError, SlipwayError, UnsupportedError, first_line
from slipway.variants.calibration import calibrate
from slipway.variants.fake_quantize import LEAST_STRETCH, Inserted, insert
from slipway.variants.inner_values import Array, Arrays, Batches
from slipway.variants.qdq import Ranges, activations, layers, prepared, quantized, representable, selected, told

if TYPE_CHECKING:
    import torch

Labelled: TypeAlias = Callable[[], Iterable[tuple[Arrays, Array | None]]]

SEED = 0
PATIENCE = 2  # epochs without a better one
CLIPPED_NORM = 1.0
# The ends of a range are learnt as shares of themselves: they move a hundred times as far as weights, of which most
# are of the order of 0.01.
RANGE_RATE = 100
SHUFFLED_BYTES = 2**28  # examples are shuffled among so many bytes of their neighbours


@dataclass(frozen=True)
class Trainee:
    """The graph that the exporter translates, its fp32 file, and how the two call inputs and outputs.

    ``inputs`` are the examples' arrays in call order; ``nodes`` are the graph's nodes by value of the file where the
    two names differ.
    """

    graph: torch.fx.GraphModule
    onnx: Path
    inputs: tuple[str, ...]
    nodes: Mapping[str, str]


@dataclass(frozen=True)
class Score:
    """How good a model is on the calibration set: ``right`` is the share of right answers, None without classes.

    Right is the label; without labels, fp32's top-1 class. ``error`` is the outputs' mean squared difference from
    fp32's, relative to fp32's mean square.
    """

    right: float | None
    error: float

    @property
    def rank(self) -> tuple[float, float]:
        """What is greater for a better model."""
        return self.right or 0.0, -self.error

    def __str__(self) -> str:
        """The score in words."""
        return f"error {self.error:.2%}" if self.right is None else f"{self.right:.2%} right, error {self.error:.2%}"


@dataclass(frozen=True)
class Tuned:
    """What fine-tuning came to: weights by name, ranges by activation, and the way there in words."""

    weights: Mapping[str, torch.Tensor]
    ranges: Ranges
    notes: tuple[str, ...]


@dataclass
class _State:
    """Where the training is after some whole epochs; ``best`` is the state of the epoch with the best score."""

    scores: list[Score]
    best: dict[str, torch.Tensor]

    @property
    def epochs(self) -> int:
        return len(self.scores) - 1

    @property
    def best_epoch(self) -> int:
        return max(range(len(self.scores)), key=lambda epoch: self.scores[epoch].rank)  # the first of equal ones

    def told(self) -> tuple[str, ...]:
        """The scores in words, and which epoch was kept."""
        no_better = "" if self.best_epoch else ": no better than int8-static"
        scores = (f"epoch {epoch}: {score} on calibration data" for epoch, score in enumerate(self.scores))
        return (*scores, f"kept epoch {self.best_epoch}{no_better}")


def fine_tune(
    trainee: Trainee,
    training: Batches,
    judged: Labelled,
    calibration: CalibrationParams,
    params: QatParams,
    checkpoint: Path,
    progress: Callable[[float], None],
) -> Tuned:
    """Train the graph under int8's rounding; ``checkpoint`` is written after each epoch, and gone on from if it exists.

    The loss is the mean squared difference of the outputs from the fp32 model's, relative to their mean square: it
    needs no labels and fits any metric, and matching scores does better than matching probabilities (Kim et al.,
    "Comparing Kullback-Leibler divergence and mean squared error loss in knowledge distillation", IJCAI 2021). Ranges
    start as calibrated and learn, too. Batch normalisation keeps its statistics. Adam, a cosine from the learning rate
    to 0; it ends early after two epochs without a better one on ``judged``, the calibration set. Epoch 0 is
    int8-static.
    The same data give the same weights on the same number of threads, resumed or not.

    Raises:
        UnsupportedError: the model has no layer that int8 kernels are made for, or it cannot be trained.
        BadInputError: a data set is empty or lacks an input, or the checkpoint is damaged.
        RejectedError: training diverged; or ONNX Runtime cannot quantize or run the model.
    """
    model = prepared(trainee.onnx)
    in_int8 = [node.name for node in layers(model)]
    names = activations(model, selected(model, in_int8))
    ranges = calibrate(model, names, lambda: (arrays for arrays, _ in judged()), calibration).ranges
    made = quantized(model, in_int8, ranges)
    total = _count(training)
    try:
        student = _copy_of(trainee.graph)
        inserted = insert(student, made, trainee.nodes)
        run = _Run(trainee, student, inserted, params, total)
        state = run.trained(training, judged, checkpoint, progress)
    except SlipwayError:
        raise
    except Exception as error:
        raise UnsupportedError(f"int8-qat: the model cannot be trained: {first_line(error)}") from error
    student.load_state_dict(state.best)
    learnt = {value: one.learnt() for one in inserted.ranges for value in one.values}
    rounded = (
        f"fine-tuned with {inserted.weights} of {len(in_int8)} layers and {inserted.values} of "
        f"{len(representable(made))} activations in int8",
        f"on {total} examples, batches of {params.batch}, learning rate {params.learning_rate:g}",
    )
    return Tuned(
        dict(student.named_parameters(remove_duplicate=False)), {**ranges, **learnt}, (*rounded, *state.told())
    )


def quantize_tuned(source: Path, out: Path, tuned: Tuned) -> tuple[str, ...]:
    """Write the int8 form of ``source``, the fp32 ONNX file of the tuned weights, and return what was made, in words.

    Raises:
        UnsupportedError, RejectedError: as of int8-static.
    """
    model = prepared(source)
    made = quantized(model, {node.name for node in layers(model)}, tuned.ranges)
    out.write_bytes(made.SerializeToString(deterministic=True))
    return (*told(made), *tuned.notes)


def _copy_of(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
    with warnings.catch_warnings():
        # torch 2.13 copies its own pytree specs in a way it deprecates itself.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        return copy.deepcopy(graph)


class _Run:
    """One training: the model that learns, the one it learns from, and the optimizer."""

    def __init__(
        self, trainee: Trainee, student: torch.fx.GraphModule, inserted: Inserted, params: QatParams, total: int
    ) -> None:
        import torch

        self._teacher, self._student, self._inputs = trainee.graph, student, trainee.inputs
        self._params, self._total = params, total
        self._stretches = [one.stretch for one in inserted.ranges]
        learning = [one for one in student.parameters() if one.is_floating_point()]
        own = {id(one) for one in self._stretches}
        self._weights = [one.requires_grad_() for one in learning if id(one) not in own]
        groups = [{"params": self._weights, "of": 1.0}, {"params": self._stretches, "of": float(RANGE_RATE)}]
        self._optimizer = torch.optim.Adam(groups, lr=params.learning_rate)

    def trained(
        self, training: Batches, judged: Labelled, checkpoint: Path, progress: Callable[[float], None]
    ) -> _State:
        """The state after the last epoch."""
        state = (
            self._restored(checkpoint) if checkpoint.exists() else _State([self._judge(judged)], self._weights_now())
        )
        while state.epochs < self._params.epochs and state.epochs - state.best_epoch < PATIENCE:
            self._epoch(state.epochs, training, progress)
            state.scores.append(self._judge(judged))
            if state.best_epoch == state.epochs:
                state.best = self._weights_now()
            self._save(state, checkpoint)
        return state

    def _epoch(self, epoch: int, training: Batches, progress: Callable[[float], None]) -> None:
        import torch

        seen = 0
        for batch in shuffled(training, self._params.batch, SEED + epoch):
            done = (epoch * self._total + seen) / (self._params.epochs * self._total)
            for group in self._optimizer.param_groups:
                group["lr"] = group["of"] * self._params.learning_rate * (1 + math.cos(math.pi * done)) / 2
            with torch.no_grad():
                wanted = self._answers(self._teacher, batch)
            loss = _error(self._answers(self._student, batch), wanted)
            if not math.isfinite(float(loss.detach())):
                raise RejectedError("int8-qat: training diverged; set a smaller qat.learning_rate")
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self._weights, CLIPPED_NORM)
            self._optimizer.step()
            with torch.no_grad():
                for stretch in self._stretches:
                    stretch.clamp_(min=LEAST_STRETCH)
            seen += _length(batch)
            progress(done)

    def _judge(self, judged: Labelled) -> Score:
        """How the student answers on the calibration set."""
        import torch

        right, errors, examples = 0, 0.0, 0
        classes = False
        with torch.no_grad():
            for batch, labels in judged():
                found, wanted = self._answers(self._student, batch), self._answers(self._teacher, batch)
                length = _length(batch)
                examples += length
                errors += length * float(_error(found, wanted))
                classes = found[0].dim() == 2 and found[0].shape[1] > 1
                if classes:
                    right += int((found[0].argmax(1) == _right_classes(labels, wanted[0])).sum())
        return Score(right / examples if classes else None, errors / examples)

    def _answers(self, module: torch.nn.Module, batch: Arrays) -> list[torch.Tensor]:
        """The outputs that are floats."""
        import torch

        inputs = (torch.from_numpy(np.array(batch[name], order="C")) for name in self._inputs)
        leaves = torch.utils._pytree.tree_leaves(module(*inputs))
        return [one for one in leaves if torch.is_tensor(one) and one.is_floating_point()]

    def _weights_now(self) -> dict[str, torch.Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self._student.state_dict().items()}

    def _save(self, state: _State, checkpoint: Path) -> None:
        """Write beside and rename: a kill leaves the old checkpoint or the new one."""
        import torch

        content = {
            "scores": [(score.right, score.error) for score in state.scores],
            "best": state.best,
            "student": self._student.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        beside = checkpoint.with_suffix(".new")
        torch.save(content, beside)
        beside.rename(checkpoint)

    def _restored(self, checkpoint: Path) -> _State:
        import torch

        try:
            content: dict[str, Any] = torch.load(checkpoint, weights_only=True)
            self._student.load_state_dict(content["student"])
            self._optimizer.load_state_dict(content["optimizer"])
            return _State([Score(*pair) for pair in content["scores"]], content["best"])
        except Exception as error:
            raise BadInputError(f"checkpoint {checkpoint} cannot be read: {first_line(error)}; delete it") from error


def _error(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> torch.Tensor:
    """The mean over the outputs of their mean squared difference, relative to the mean square of what is wanted."""
    import torch

    pairs = zip(found, wanted, strict=True)
    return torch.stack(
        [(one - two).square().mean() / two.square().mean().clamp(min=1e-12) for one, two in pairs]
    ).mean()


def _right_classes(labels: Array | None, wanted: torch.Tensor) -> torch.Tensor:
    """The labels, if they are classes, else fp32's answers."""
    import torch

    if labels is not None and labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer):
        return torch.from_numpy(labels.astype(np.int64))
    return wanted.argmax(1)


def _length(batch: Arrays) -> int:
    return len(next(iter(batch.values())))


def _count(training: Batches) -> int:
    total = sum(map(_length, training()))
    if total == 0:
        raise BadInputError("int8-qat: the training data is empty; set data.training")
    return total


def shuffled(batches: Batches, size: int, seed: int) -> Iterator[Arrays]:
    """The examples in batches of up to ``size``, in another order for each ``seed``.

    They are shuffled among their neighbours, 256 MiB of them at a time: all, if they are that few.
    """
    order = np.random.default_rng(seed)
    block: list[Arrays] = []
    for batch in batches():
        block.append(batch)
        if sum(array.nbytes for one in block for array in one.values()) >= SHUFFLED_BYTES:
            yield from _mixed(block, size, order)
            block = []
    yield from _mixed(block, size, order)


def _mixed(block: Sequence[Arrays], size: int, order: np.random.Generator) -> Iterator[Arrays]:
    if not block:
        return
    whole = {name: np.concatenate([one[name] for one in block]) for name in block[0]}
    places = order.permutation(_length(whole))
    for start in range(0, len(places), size):
        yield {name: array[places[start : start + size]] for name, array in whole.items()}
