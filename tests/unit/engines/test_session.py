from __future__ import annotations

import numpy as np
import pytest

from slipway.engines.base import Arrays
from slipway.engines.session import CheckedSession
from slipway.errors import BadInputError
from slipway.records import Signature, TensorSpec


class Echo(CheckedSession):
    closed = False

    def _run(self, arrays: Arrays) -> dict[str, np.ndarray]:
        return dict(arrays)

    def executed_precision(self) -> dict[str, int]:
        return {}

    def _close(self) -> None:
        self.closed = True


TOKENS = Signature(inputs=(TensorSpec(name="tokens", dtype="int64", shape=(-1, -1, 4)),), outputs=())


@pytest.mark.parametrize("shape", [(1, 1, 4), (3, 7, 4), (0, 2, 4)])
def test_dynamic_dimensions_take_any_size(shape: tuple[int, ...]) -> None:
    assert Echo(TOKENS).infer({"tokens": np.zeros(shape, "int64")})["tokens"].shape == shape


@pytest.mark.parametrize(
    "array", [np.zeros((1, 1, 5), "int64"), np.zeros((1, 4), "int64"), np.zeros((1, 1, 4), "int32")]
)
def test_other_arrays_are_refused_telling_expected_and_given(array: np.ndarray) -> None:
    with pytest.raises(BadInputError) as caught:
        Echo(TOKENS).infer({"tokens": array})
    assert str(caught.value) == (
        f"the model takes tokens int64[-1, -1, 4], but was given tokens {array.dtype}{list(array.shape)}; "
        "give exactly these arrays (-1 is any size)"
    )


def test_leaving_the_context_closes_the_session() -> None:
    with Echo(TOKENS) as session:
        assert not session.closed
    assert session.closed
