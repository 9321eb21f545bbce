"""The pictures of the documents, which `docs/screenshots.py` takes."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHOWN = [
    (document, words, document.parent / place)
    for document in DOCUMENTS
    for words, place in re.findall(r"!\[([^]]*)\]\(([^)]+)\)", document.read_text(encoding="utf-8"))
]
MOST_BYTES = 300_000


@pytest.mark.parametrize(("document", "words", "picture"), SHOWN, ids=lambda value: getattr(value, "name", ""))
def test_a_picture_that_is_shown_is_there_small_and_described(document: Path, words: str, picture: Path) -> None:
    assert words.strip()
    assert picture.stat().st_size <= MOST_BYTES
    signature, width, height = struct.unpack(">8s8xII", picture.read_bytes()[:24])
    assert signature == b"\x89PNG\r\n\x1a\n"
    assert min(width, height) >= 400


def test_every_picture_is_shown_and_taken_by_the_script() -> None:
    taken = set(re.findall(r'\.take\(f?"([\w{}-]+)"', (ROOT / "docs" / "screenshots.py").read_text(encoding="utf-8")))
    kept = {picture.stem for picture in IMAGES.glob("*.png")}

    assert kept <= {picture.stem for _, _, picture in SHOWN}
    assert kept <= {name for pattern in taken for name in kept if re.fullmatch(re.sub(r"\{\w+\}", ".+", pattern), name)}
