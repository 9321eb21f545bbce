from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slipway.errors import BadInputError, InfrastructureError
from slipway.rollout.gateway.running import Gateway, gateway_folder, load_gateway, only_gateway, publish, replace


def gateway(folder: Path, pid: int | None = None) -> Gateway:
    return Gateway(
        name="digits.x86",
        address="http://127.0.0.1:8080",
        admin="http://127.0.0.1:20001",
        folder=folder,
        access_log=folder / "access.log",
        champion_log=folder / "champion.log",
        challenger_log=folder / "challenger.log",
        pid=os.getpid() if pid is None else pid,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return gateway_folder(tmp_path, "digits.x86")


def test_a_gateway_that_was_published_is_found_while_it_runs(folder: Path) -> None:
    with only_gateway(folder):
        publish(gateway(folder))
        assert load_gateway(folder) == gateway(folder)
    with pytest.raises(
        InfrastructureError, match=r"no gateway runs for digits\.x86; start one: `slipway gateway digits --target x86`"
    ):
        load_gateway(folder)


def test_a_gateway_that_was_killed_is_told_from_one_that_runs(folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as ended:
        pass
    with only_gateway(folder):
        publish(gateway(folder, ended.pid))
        with pytest.raises(InfrastructureError, match=rf"\(process {ended.pid}\) has died; start it anew: `slipway"):
            load_gateway(folder)


def test_a_process_that_got_the_number_of_a_killed_gateway_is_not_taken_for_it(folder: Path) -> None:
    with only_gateway(folder), subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as later:
        publish(gateway(folder, later.pid))
        assert load_gateway(folder).pid == later.pid
        before = time.time() - 3600
        os.utime(folder / "gateway.json", (before, before))
        with pytest.raises(InfrastructureError, match="has died"):
            load_gateway(folder)
        later.communicate(b"\n")


@pytest.mark.parametrize("text", ["", "{}", '{"name": "m"', '{"surprise": 1}'])
def test_a_damaged_record_is_told_with_the_command_that_mends_it(folder: Path, text: str) -> None:
    with only_gateway(folder):
        (folder / "gateway.json").write_text(text)
        with pytest.raises(
            InfrastructureError, match=r"cannot be read: it is damaged, .* `slipway gateway digits --target x86`"
        ):
            load_gateway(folder)


def test_a_second_gateway_is_refused_and_the_first_stays_published(folder: Path) -> None:
    program = f"""
from pathlib import Path
from slipway.errors import BadInputError
from slipway.rollout.gateway.running import only_gateway
try:
    with only_gateway(Path({str(folder)!r})):
        print("let in")
except BadInputError as error:
    print(error)
"""
    with only_gateway(folder):
        publish(gateway(folder))
        told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        assert f"digits.x86 runs already (process {os.getpid()}); use it, or end it" in told
        assert load_gateway(folder)


def test_what_a_killed_gateway_left_is_removed_by_the_next_one(folder: Path) -> None:
    folder.mkdir(parents=True)
    publish(gateway(folder, 1))
    with only_gateway(folder), pytest.raises(InfrastructureError, match="no gateway runs"):
        load_gateway(folder)


def test_only_one_gateway_also_within_a_process(folder: Path) -> None:
    with only_gateway(folder), pytest.raises(BadInputError, match="it is starting or ending"), only_gateway(folder):
        pass


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    place = tmp_path / "routes"
    place.mkdir()
    replace(place / "routes.json", json.dumps({"a": 1}))
    before = (place / "routes.json").stat().st_ino
    replace(place / "routes.json", json.dumps({"a": 2}))
    with pytest.raises(OSError, match="No such file"):
        replace(tmp_path / "missing" / "routes.json", "never")

    assert json.loads((place / "routes.json").read_text()) == {"a": 2}
    assert (place / "routes.json").stat().st_ino != before
    assert [path.name for path in tmp_path.iterdir()] == ["routes"]  # nothing half-written is left
