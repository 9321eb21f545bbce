"""Which PostgreSQL is taken: one that has what Prefect needs and reads the data that there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.stack import postgres
from slipway.errors import BadInputError


def install(root: Path, version: str, *, trigrams: bool = True) -> Path:
    """A folder of programs that look like PostgreSQL's."""
    folder = root / "bin"
    folder.mkdir(parents=True)
    for program in ("initdb", "postgres"):
        (folder / program).write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n")
        (folder / program).chmod(0o755)
    if trigrams:
        (root / "share" / "extension").mkdir(parents=True)
        (root / "share" / "extension" / "pg_trgm.control").touch()
    return folder


def offer(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    monkeypatch.setattr(postgres, "_candidates", lambda: iter(folders))


def test_one_without_trigrams_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without, whole = install(tmp_path / "a", "18.4", trigrams=False), install(tmp_path / "b", "15.18")
    offer(monkeypatch, without, whole)
    assert postgres.programs(tmp_path / "data") == whole


@pytest.mark.parametrize("version", ["15.18 (Debian 15.18-0+deb12u1)", "15.18"])
def test_data_are_read_by_the_version_that_made_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    newer, same = install(tmp_path / "a", "18.6"), install(tmp_path / "b", version)
    offer(monkeypatch, newer, same)
    assert postgres.programs(tmp_path / "data") == newer
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "PG_VERSION").write_text("15\n")
    assert postgres.programs(tmp_path / "data") == same


def test_where_there_is_none_the_ways_to_one_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, install(tmp_path / "a", "18.4", trigrams=False))
    with pytest.raises(BadInputError, match=r"pg_trgm among .*/a/bin; .*apt install postgresql.*SLIPWAY_POSTGRES_BIN"):
        postgres.programs(tmp_path / "data")
    offer(monkeypatch)
    with pytest.raises(BadInputError, match="among no programs at all"):
        postgres.programs(tmp_path / "data")


def test_a_folder_that_is_named_is_the_only_one_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = install(tmp_path / "named", "16.1")
    monkeypatch.setenv("SLIPWAY_POSTGRES_BIN", str(named))
    assert postgres.programs(tmp_path / "data") == named
    monkeypatch.setenv("SLIPWAY_POSTGRES_BIN", str(tmp_path / "nowhere"))
    with pytest.raises(BadInputError, match=r"among .*nowhere; "):
        postgres.programs(tmp_path / "data")
