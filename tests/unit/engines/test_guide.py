"""The guide to the engines tells what they are and take."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from slipway.engines import ENGINES

GUIDE = (Path(__file__).parents[3] / "docs" / "guides" / "engines.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    return GUIDE.partition(f"## {heading}\n")[2].partition("\n## ")[0]


def test_every_engine_has_its_row() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| .* \| .* \| .* \|$", GUIDE.partition("\n## ")[0], re.MULTILINE)
    assert rows == list(ENGINES)


def test_every_setting_stands_in_its_engines_row() -> None:
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.*) \|$", section("Settings"), re.MULTILINE))
    told = {name: set(re.findall(r"`(\w+)`", row)) for name, row in rows.items()}
    known = {}
    for name, where in ENGINES.items():
        module, _, found = where.partition(":")
        known[name] = set(getattr(importlib.import_module(module), found).settings.model_fields)
    assert told == {name: fields for name, fields in known.items() if fields}


def test_every_engine_that_refuses_a_variant_has_a_row_for_it() -> None:
    rows = section("What each refuses")
    for name, where in ENGINES.items():
        module, _, found = where.partition(":")
        if getattr(importlib.import_module(module), found).refused:
            assert f"`{name}`" in rows
