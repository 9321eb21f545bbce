from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from slipway import errors
from slipway.errors import InfrastructureError, SlipwayError
from slipway.steps.isolated import isolated
from slipway.stores.objects import DamagedObjectError, MissingObjectError
from tests.unit.steps import misbehaving

EVERY_ERROR = [
    *(kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SlipwayError)),
    MissingObjectError,
    DamagedObjectError,
]


@pytest.fixture(scope="module", autouse=True)
def _started() -> None:
    """The server that children are forked from imports torch first; no time-out below should count that."""
    isolated(misbehaving.joined)("a", second="b")


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()


def test_the_result_comes_back_from_another_process() -> None:
    result, process_id = isolated(misbehaving.joined)("a", second="b")

    assert result == "a-b"
    assert process_id != os.getpid()


def test_a_step_keeps_its_name() -> None:
    assert isolated(misbehaving.joined).__name__ == "joined"


@pytest.mark.parametrize("kind", EVERY_ERROR)
def test_an_error_of_slipway_comes_through_as_it_is(kind: type[SlipwayError]) -> None:
    with pytest.raises(SlipwayError) as caught:
        isolated(misbehaving.refuse)(kind)

    assert (type(caught.value), str(caught.value)) == (kind, f"a message of {kind.__name__}; do this")


def test_a_foreign_exception_is_infrastructure_in_one_line() -> None:
    """It is not sent itself: this one could not even be unpickled here."""
    with pytest.raises(InfrastructureError, match=r"^break_down failed: UnpicklableError: the first line$"):
        isolated(misbehaving.break_down)()


def test_an_exception_without_a_message_is_told_as_such() -> None:
    with pytest.raises(InfrastructureError, match=r"failed: ZeroDivisionError: no message$"):
        isolated(misbehaving.break_down_without_a_word)()


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_a_crash_is_told_with_its_signal_and_the_last_words(number: signal.Signals) -> None:
    expected = (
        f"crash crashed: its process ended with signal {number.name}; it last said: some runtime: bad instruction"
    )
    with pytest.raises(InfrastructureError) as caught:
        isolated(misbehaving.crash)(number)

    assert str(caught.value) == expected


def test_a_process_that_leaves_without_a_word_is_a_crash() -> None:
    with pytest.raises(InfrastructureError, match=r"^leave crashed: its process ended with exit status 7$"):
        isolated(misbehaving.leave)(7)


@pytest.mark.parametrize("step", [misbehaving.hang, misbehaving.hang_in_a_compiler])
def test_a_step_that_hangs_is_ended_for_good_with_all_that_it_started(
    step: Callable[[Path], None], tmp_path: Path
) -> None:
    process_id, start = tmp_path / "pid", time.monotonic()

    with pytest.raises(InfrastructureError, match=rf"^{step.__name__} did not finish within 2 s and was ended$"):
        isolated(step, timeout_seconds=2)(process_id)

    assert time.monotonic() - start < 30
    assert _has_ended(int(process_id.read_text()))


def test_what_a_step_prints_goes_to_a_file_that_is_removed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Our stdout is the place of one JSON object."""
    stdout, stderr = isolated(misbehaving.places_of_output)()

    assert stdout == stderr
    assert Path(stdout).parent == tmp_path / "temporary"
    assert capfd.readouterr() == ("", "")
    assert list((tmp_path / "temporary").iterdir()) == []


def _has_ended(process_id: int) -> bool:
    """Whether it is gone, or but a name that nobody has asked for yet."""
    try:
        psutil.Process(process_id).wait(timeout=10)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return psutil.Process(process_id).status() == psutil.STATUS_ZOMBIE
    return True


ABANDONED = """
import sys
from pathlib import Path
from slipway.steps.isolated import isolated
from tests.unit.steps import misbehaving

if __name__ == "__main__":
    isolated(misbehaving.hang)(Path(sys.argv[1]))
"""


def test_a_step_ends_when_the_process_that_waits_for_it_is_killed(tmp_path: Path) -> None:
    (tmp_path / "abandoned.py").write_text(ABANDONED)
    note = tmp_path / "process"
    command = [sys.executable, str(tmp_path / "abandoned.py"), str(note)]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}) as waiting:
        while not note.exists() or not note.read_text():
            assert waiting.poll() is None
            time.sleep(0.05)
        step = psutil.Process(int(note.read_text()))
        waiting.kill()

    step.wait(timeout=10)


PROGRAM = """
import heavy
from slipway.steps.isolated import isolated
from tests.unit.steps import misbehaving

if __name__ == "__main__":
    for second in "bcd":
        assert isolated(misbehaving.joined)("a", second=second)[0] == f"a-{second}"
"""


def test_what_a_program_imports_is_imported_once_for_all_its_steps(tmp_path: Path) -> None:
    """Prefect starts a flow run by its module's name, and imports for more than a second."""
    imported = tmp_path / "imported"
    (tmp_path / "heavy.py").write_text(f"open({str(imported)!r}, 'a').write('once ')")
    (tmp_path / "program.py").write_text(PROGRAM)
    paths = os.pathsep.join((str(tmp_path), str(Path(__file__).parents[3])))
    done = subprocess.run(
        [sys.executable, "-m", "program"],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )

    assert done.stderr == ""
    assert imported.read_text() == "once once ", "here, and in the server that forks the processes of steps"
