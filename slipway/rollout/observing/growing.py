"""Arrays that grow at their end: a rollout is looked at every second, and nothing is copied for a look."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)
_FIRST = 1024


class Growing(Generic[T]):
    """An array, shape (n,), that doubles its room when it is full: adding takes constant time on average."""

    def __init__(self, kind: type[T]) -> None:
        self._room: NDArray[T] = np.empty(_FIRST, kind)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def extend(self, values: Collection[Any]) -> None:
        """Add values at the end."""
        count = self._count + len(values)
        if count > len(self._room):
            room = np.empty(max(count, 2 * len(self._room)), self._room.dtype)
            room[: self._count] = self._room[: self._count]
            self._room = room
        self._room[self._count : count] = list(values)
        self._count = count

    def array(self) -> NDArray[T]:
        """All values so far, not to be written to; what is added later does not change them."""
        values = self._room[: self._count]
        values.flags.writeable = False
        return values
