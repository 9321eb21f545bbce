from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer

from slipway import __version__
from slipway.cli import host
from slipway.cli.commands import app
from slipway.errors import BadInputError, InfrastructureError, RejectedError, SlipwayError, TamperedError
from tests.unit.cli.conftest import Slipway

COMMANDS = sorted(set(typer.main.get_command(app).commands) - {"step"})  # type: ignore[attr-defined]
HEAVY = ("torch", "onnx", "onnxruntime", "openvino", "mlflow", "dvc", "prefect", "plotly", "matplotlib", "scipy")


def test_the_commands_of_the_design_are_there() -> None:
    wanted = {"demo", "release", "targets", "doctor", "candidates", "explain", "approve", "reject", "rollback"}

    assert wanted <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_tells_what_it_does_and_has_json(command: str, slipway: Slipway) -> None:
    ended = slipway(command, "--help")

    assert (ended.code, ended.stderr) == (0, "")
    assert f"slipway {command}" in ended.stdout
    assert "--json" in ended.stdout


def test_help_tells_the_exit_codes(slipway: Slipway) -> None:
    told = " ".join(slipway("--help").stdout.split())

    assert "Exit codes: 0 done and PASS; 2 bad input; 3 FAIL; 4 INCONCLUSIVE; 5 ERROR." in told
    assert all(command in told for command in COMMANDS)


def test_the_version(slipway: Slipway) -> None:
    assert slipway("--version").stdout == f"slipway {__version__}\n"


def test_the_command_line_loads_no_runtime() -> None:
    """So that --help answers at once."""
    code = f"import sys, slipway.cli.commands; print([name for name in {HEAVY} if name in sys.modules])"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert finished.stdout == "[]\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("luanch",),
        ("targets", "--jsno"),
        ("explain",),
        ("approve", "digits.x86", "1"),
        ("rollback", "digits"),
        ("release", "models:/m/1", "--target"),
        ("step", "lift-off"),
    ],
    ids=" ".join,
)
def test_a_wrong_call_is_bad_input_told_on_stderr(arguments: tuple[str, ...], slipway: Slipway) -> None:
    ended = slipway(*arguments)

    assert (ended.code, ended.stdout) == (2, "")
    assert "Error" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("targets", "--jsno"), "No such option: --jsno"),
        (("explain",), "Missing argument 'digest'."),
        (("link", "digits", "--target", "x86", "--expires", "5y"), "'5y' is no duration"),
    ],
    ids=["option", "argument", "value"],
)
def test_a_program_too_is_told_of_a_wrong_call(arguments: tuple[str, ...], why: str, slipway: Slipway) -> None:
    ended = slipway(*arguments, "--json")

    assert ended.code == 2
    assert why in ended.object["error"]
    assert ended.object["exit_code"] == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadInputError("wrong [key]; do this"), 2),
        (TamperedError("changed"), 2),
        (RejectedError("no"), 3),
        (InfrastructureError("down"), 5),
    ],
)
def test_an_error_is_one_message_and_its_exit_code(
    error: SlipwayError, code: int, slipway: Slipway, monkeypatch: pytest.MonkeyPatch, project: Path
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(host, "host_hardware", fail)

    ended = slipway("targets")
    assert (ended.code, ended.stdout, ended.stderr) == (code, "", f"slipway: {error}\n")

    ended = slipway("targets", "--json")
    assert (ended.code, ended.stderr) == (code, f"slipway: {error}\n")
    assert ended.object == {"error": str(error), "exit_code": code}
    assert list(project.iterdir()) == [], "a foreseen error leaves no traceback behind"


@pytest.fixture
def _broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError("nobody thought of [this]")

    monkeypatch.setattr(host, "host_hardware", fail)


@pytest.mark.usefixtures("_broken")
def test_an_unforeseen_exception_is_told_without_its_traceback(slipway: Slipway, project: Path) -> None:
    ended = slipway("targets", "--json")

    message = "unforeseen ZeroDivisionError: nobody thought of [this]; please report it with .slipway/last-error.txt"
    assert (ended.code, ended.stderr) == (5, f"slipway: {message}\n")
    assert ended.object == {"error": message, "exit_code": 5}
    kept = (project / ".slipway" / "last-error.txt").read_text(encoding="utf-8")
    assert kept.startswith("Traceback (most recent call last):")
    assert kept.endswith("ZeroDivisionError: nobody thought of [this]\n")


@pytest.mark.usefixtures("_broken")
def test_not_even_where_nothing_can_be_kept(slipway: Slipway, project: Path) -> None:
    (project / ".slipway").write_text("a file in the way")

    ended = slipway("targets")

    assert (ended.code, ended.stdout) == (5, "")
    assert "Traceback" not in ended.stderr
    assert "its traceback could not be kept in .slipway/last-error.txt: File exists" in ended.stderr


@pytest.mark.parametrize(
    "print_much", ["[print_json(['x' * 100]) for _ in range(50000)]", "[out.print('x' * 100) for _ in range(5000)]"]
)
@pytest.mark.parametrize("code", [0, 3])
def test_a_reader_who_leaves_early_changes_nothing_and_is_not_complained_about(print_much: str, code: int) -> None:
    """As with ``slipway explain ... | head``; a release that failed still ends as one."""
    command = f"""if True:
        import typer
        from slipway.cli.console import out, print_json
        from slipway.cli import main
        from slipway.cli.commands import app

        @app.command()
        def much() -> None:
            {print_much}
            raise typer.Exit({code})

        main()
    """
    started = subprocess.Popen(
        [sys.executable, "-c", command, "much"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    started.stdout.readline()
    started.stdout.close()
    assert started.stderr is not None
    assert started.stderr.read() == ""
    assert started.wait() == code
    started.stderr.close()


def test_bad_input_that_no_command_reaches_costs_two(slipway: Slipway) -> None:
    for arguments in (
        ("release", "models:/m/1"),
        ("release", "models:/m/1", "--params", "nowhere.yaml"),
        ("doctor",),
        ("demo", "digts"),
    ):
        ended = slipway(*arguments, "--json")
        assert ended.code == 2
        assert ended.object["exit_code"] == 2
    assert "did you mean 'digits'" in ended.object["error"]
