from __future__ import annotations

import pytest
from rich.console import Console

from slipway.cli import console
from slipway.cli.console import Spare, complain, print_json, print_table, tell


def test_messages_go_to_stderr_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    complain("a [key] and 'slipway[all]'")
    tell("[bold]half done")

    assert capsys.readouterr() == ("", "slipway: a [key] and 'slipway[all]'\n[bold]half done\n")


def test_long_messages_are_not_broken(capsys: pytest.CaptureFixture[str]) -> None:
    complain("word " * 100)

    assert capsys.readouterr().err.count("\n") == 1


def test_a_table_in_a_pipe_keeps_its_rows_whole(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("", "verdict", "found"), [("►", "PASS", "[brackets] " + "x" * 100)], title="candidates of [/x]")

    printed = capsys.readouterr().out
    assert printed.splitlines()[0].rstrip() == "candidates of [/x]"
    assert "[brackets] " + "x" * 100 in printed


ROWS = [("►", "int8-dynamic", "1.99x [1.90, 2.05]", "INCONCLUSIVE", "0123456789ab")]
HEADS = ("", "variant", "speed-up", "verdict", "digest")
SPARE = (Spare("digest", lambda cell: cell[:8]), Spare("speed-up", lambda cell: cell[:5]), Spare("speed-up"))


@pytest.mark.parametrize(
    ("width", "there", "gone"),
    [
        (90, ["0123456789ab", "[1.90, 2.05]"], []),
        (66, ["01234567", "[1.90, 2.05]"], ["0123456789ab"]),
        (52, ["01234567", "1.99x"], ["0123456789ab", "[1.90"]),
        (40, ["int8-dynamic", "INCONCLUSIVE", "01234567"], ["1.99x"]),
        (20, ["int8-dynamic", "INCONCLUSIVE", "01234567"], ["1.99x"]),
    ],
)
def test_a_narrow_terminal_does_without_what_is_spare_and_cuts_nothing(
    width: int, there: list[str], gone: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "out", Console(width=width, force_terminal=True))
    print_table(HEADS, ROWS, spare=SPARE)

    (line,) = [line for line in capsys.readouterr().out.splitlines() if "►" in line]
    assert all(word in line for word in there), line
    assert not any(word in line for word in gone), line


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [1, None]})

    assert capsys.readouterr().out == '{\n  "a": [\n    1,\n    null\n  ]\n}\n'


@pytest.mark.parametrize("width", [80, 50, 30])
def test_nothing_is_cut_off_where_nothing_is_spare(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "out", Console(width=width, force_terminal=True))
    print_table(("engine", "why"), [("digits-resnet.x86", "abcdefghij" * 7)])

    printed = capsys.readouterr().out
    assert "…" not in printed
    assert printed.count("j") == 7
