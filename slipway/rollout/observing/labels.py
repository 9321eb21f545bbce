"""Files of labels: which class was right for a request, told afterwards by whoever knows."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slipway.errors import BadInputError
from slipway.rollout.store.rollouts import Classes

REQUEST_ID, LABEL = "request_id", "label"
LONGEST_ID = 256  # the access log keeps no more of it
TOLD_LINES = 3


def read_labels(path: Path) -> dict[str, Classes]:
    """The classes of each request's examples, from CSV with the columns ``request_id,label`` or from JSON lines.

    A label is a class from 0, or a list of them: ``[3, 5]``. Which of the two it is, the first character tells: that
    of JSON lines is a brace. The same line twice does no harm.

    Raises:
        BadInputError: a line is no label, or tells another one than a line before it; its number is told.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInputError(
            f"cannot read the labels {path}: {reason}; give a CSV file or JSON lines in UTF-8"
        ) from error
    rows = _json_rows(text) if text.lstrip().startswith("{") else _csv_rows(text, path)
    labels: dict[str, Classes] = {}
    lines: dict[str, int] = {}
    wrong: list[str] = []
    for number, request_id, label in rows:
        fault = _fault(request_id, label)
        if fault is None:
            request, classes = request_id[:LONGEST_ID], _classes(label)
            if labels.setdefault(request, classes) != classes:
                fault = f"{request!r} is {label!r} here, and another label in line {lines[request]}"
            lines.setdefault(request, number)
        if fault is not None:
            wrong.append(f"line {number}: {fault}")
    if wrong:
        more = f"; and {len(wrong) - TOLD_LINES} more" if len(wrong) > TOLD_LINES else ""
        raise BadInputError(f"{path}: {'; '.join(wrong[:TOLD_LINES])}{more}; nothing was imported")
    if not labels:
        raise BadInputError(f"{path} holds no label; each line tells a {REQUEST_ID} and its {LABEL}")
    return labels


def _csv_rows(text: str, path: Path) -> Iterator[tuple[int, Any, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    found = reader.fieldnames or []
    if missing := [column for column in (REQUEST_ID, LABEL) if column not in found]:
        raise BadInputError(
            f"{path} has no column {' and no '.join(missing)}, found {', '.join(found) or 'nothing'}; its first line "
            f"has to be {REQUEST_ID},{LABEL}"
        )
    try:
        for row in reader:
            label = row[LABEL]
            yield reader.line_num, row[REQUEST_ID], _parsed(label) if label else label
    except csv.Error as error:
        raise BadInputError(f"{path}: line {reader.reader.line_num}: {error}; nothing was imported") from error


def _json_rows(text: str) -> Iterator[tuple[int, Any, Any]]:
    for number, line in enumerate(text.split("\n"), 1):  # splitlines splits at more than JSON lines do
        if line.strip():
            entry = _parsed(line)
            yield number, *((entry.get(REQUEST_ID), entry.get(LABEL)) if isinstance(entry, dict) else (line, None))


def _parsed(text: str) -> Any:
    """What JSON says, or the text itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _fault(request_id: Any, label: Any) -> str | None:
    """What is wrong with a line."""
    if not isinstance(request_id, str) or not request_id:
        return f"{REQUEST_ID} is a text, found {request_id!r:.40}"
    classes = label if isinstance(label, list) else [label]
    if not classes or not all(type(one) is int and one >= 0 for one in classes):
        return f"{LABEL} of {request_id!r:.40} is a class from 0, or a list of them, found {label!r:.40}"
    return None


def _classes(label: int | list[int]) -> Classes:
    return tuple(label) if isinstance(label, list) else (label,)
