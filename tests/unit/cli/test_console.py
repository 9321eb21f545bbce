from __future__ import annotations

import pytest

from slipway.cli.console import complain, print_json, print_table, tell


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


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [1, None]})

    assert capsys.readouterr().out == '{\n  "a": [\n    1,\n    null\n  ]\n}\n'
