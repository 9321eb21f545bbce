"""What went wrong inside a library, in one line."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """An error's first line, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
