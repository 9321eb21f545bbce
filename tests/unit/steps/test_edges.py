from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slipway.engines.base import Arrays
from slipway.engines.session import CheckedSession
from slipway.records import DataSource, Signature, TensorSpec
from slipway.steps.edges import Case, cases
from slipway.stores.datasets import write_shards

TOKENS, WIDTH, EXAMPLES = 7, 5, 4


class Mean(CheckedSession):
    """The mean per example, of at least ``least`` tokens; it hands out the same buffer each time."""

    def __init__(self, signature: Signature, least: int) -> None:
        super().__init__(signature)
        self.least, self.buffer = least, np.zeros(EXAMPLES, np.float32)

    def _run(self, arrays: Arrays) -> dict[str, np.ndarray]:
        if arrays["x"].shape[1] < self.least:
            raise RuntimeError("too short")
        count = len(arrays["x"])
        self.buffer[:count] = arrays["x"].reshape(count, -1).mean(1)
        return {"mean": self.buffer[:count]}

    def executed_precision(self) -> dict[str, int]:
        return {}

    def _close(self) -> None:
        pass


def found(folder: Path, *shape: int, least: int = 1, first_batch: int = 1) -> list[Case]:
    values = np.random.default_rng(0).standard_normal((EXAMPLES, TOKENS, WIDTH)).astype(np.float32)
    write_shards(folder, {"x": values, "mask": np.ones((EXAMPLES, TOKENS), np.int64)}, np.zeros(EXAMPLES), 8)
    signature = Signature(
        inputs=(
            TensorSpec(name="x", dtype="float32", shape=shape),
            TensorSpec(name="mask", dtype="int64", shape=shape[:2]),
        ),
        outputs=(TensorSpec(name="mean", dtype="float32", shape=(-1,)),),
    )
    data = DataSource(path=str(folder), md5="m", files=1, size_bytes=1)
    return list(cases(Mean(signature, least), data, signature, first_batch))


def test_a_batch_of_one_and_one_of_three_are_real_examples_with_their_own_answers(tmp_path: Path) -> None:
    one, three = found(tmp_path, -1, TOKENS, WIDTH)
    assert (one.where, three.where) == ("batch 1", "batch 3")
    assert (one.inputs["x"].shape, three.inputs["x"].shape) == ((1, TOKENS, WIDTH), (3, TOKENS, WIDTH))
    for case in (one, three):
        np.testing.assert_allclose(case.reference["mean"], case.inputs["x"].mean((1, 2)), rtol=1e-5)


def test_the_first_batch_size_is_an_edge_too_where_there_are_as_many_examples(tmp_path: Path) -> None:
    one, three, four = found(tmp_path / "4", -1, TOKENS, WIDTH, first_batch=4)
    assert [case.where for case in (one, three, four)] == ["batch 1", "batch 3", "batch 4"]
    assert four.inputs["x"].shape == (4, TOKENS, WIDTH)
    np.testing.assert_allclose(four.reference["mean"], four.inputs["x"].mean((1, 2)), rtol=1e-5)
    assert len(found(tmp_path / "3", -1, TOKENS, WIDTH, first_batch=3)) == 2
    assert len(found(tmp_path / "5", -1, TOKENS, WIDTH, first_batch=EXAMPLES + 1)) == 2
    smallest = found(tmp_path / "cut", -1, -1, WIDTH, first_batch=4)[-1]
    assert smallest.inputs["x"].shape == (3, 1, WIDTH)


@pytest.mark.parametrize(("least", "tokens"), [(1, 1), (2, 2), (3, 4), (4, 4)])
def test_the_smallest_size_is_the_first_that_the_model_answers_and_is_cut_from_every_input_alike(
    least: int, tokens: int, tmp_path: Path
) -> None:
    smallest = found(tmp_path, -1, -1, WIDTH, least=least)[2]
    assert smallest.inputs["x"].shape == (3, tokens, WIDTH)
    assert smallest.inputs["mask"].shape == (3, tokens)
    assert smallest.where == f"the smallest size, x [3, {tokens}, {WIDTH}], mask [3, {tokens}]"


def test_a_model_that_takes_no_smaller_size_has_no_smaller_edge(tmp_path: Path) -> None:
    assert len(found(tmp_path, -1, -1, WIDTH, least=5)) == 2
