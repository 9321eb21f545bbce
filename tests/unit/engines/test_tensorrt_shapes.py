"""Optimization profiles: what follows from the batch sizes asked for, and what has to be set."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from slipway.engines.base import BuildOptions
from slipway.engines.tensorrt_shapes import ShapeSettings, batch_range, profile_shapes
from slipway.errors import BadInputError, UnsupportedError
from slipway.records import Signature, TensorSpec

TOKENS = TensorSpec(name="tokens", dtype="int64", shape=(-1, -1))
MASK = TensorSpec(name="mask", dtype="float32", shape=(-1, 1, -1))
FIXED = TensorSpec(name="table", dtype="float32", shape=(4, 2))
LENGTHS = {"tokens.1": (1, 128, 512), "mask.2": (2, 64, 512)}


def test_batch_asked_for_most_is_the_usual_one_and_the_largest_is_the_most() -> None:
    assert batch_range(_options(), ShapeSettings()) == (1, 4, 32)
    assert batch_range(_options(), ShapeSettings(max_batch=64)) == (1, 4, 64)


def test_largest_batch_below_the_usual_one_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"^max_batch is 2, but batch 4 is asked for most; set it to 4 or more$"):
        batch_range(_options(), ShapeSettings(max_batch=2))


def test_every_dynamic_input_gets_its_three_shapes() -> None:
    shapes = profile_shapes("tensorrt", _options(TOKENS, MASK, FIXED), ShapeSettings(dimensions=LENGTHS))
    assert shapes == {
        "tokens": ((1, 1), (4, 128), (32, 512)),
        "mask": ((1, 1, 2), (4, 1, 64), (32, 1, 512)),
    }


def test_dimension_without_a_range_is_named_with_the_setting() -> None:
    message = (
        r"^engine tensorrt needs a range for dimension 2 of input mask \[-1, 1, -1\]; "
        r"set targets\.T\.settings\.tensorrt\.dimensions: \{mask\.2: \[least, usual, largest\]\}$"
    )
    settings = ShapeSettings(dimensions={"tokens.1": (1, 2, 3)})
    with pytest.raises(UnsupportedError, match=message):
        profile_shapes("tensorrt", _options(TOKENS, MASK), settings)


@pytest.mark.parametrize("name", ["tokens.0", "tokens.2", "token.1", "table.0"])
def test_range_of_no_dynamic_dimension_is_refused(name: str) -> None:
    settings = ShapeSettings(dimensions={**LENGTHS, name: (1, 2, 3)})
    with pytest.raises(BadInputError, match=rf"the setting 'dimensions' names {name}, which the model has not"):
        profile_shapes("tensorrt", _options(TOKENS, MASK, FIXED), settings)


@pytest.mark.parametrize("wrong", [(0, 1, 2), (3, 2, 4), (1, 5, 4)])
def test_range_that_does_not_rise_is_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ValidationError, match=r"dimension tokens\.1 wants 1 <= least <= usual <= largest"):
        ShapeSettings(dimensions={"tokens.1": wrong})


def _options(*inputs: TensorSpec) -> BuildOptions:
    return BuildOptions(variant="fp32", signature=Signature(inputs=inputs, outputs=()), batch=(4, 1, 32))
