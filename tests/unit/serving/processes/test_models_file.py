"""The file that names the models of one server."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipway.errors import BadInputError
from slipway.serving.processes.models_file import ModelEntry, read_models


def test_models_are_listed_with_their_targets_and_the_champion_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text("- {name: digits, target: x86}\n- {name: digits, target: arm, alias: challenger}\n")
    first, second = read_models(path)
    assert first == ModelEntry(name="digits", target="x86", alias="champion")
    assert (second.registered, second.alias) == ("digits.arm", "challenger")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds no list of models; list them as: - {name: digits-resnet, target: x86}"),
        ("{name: digits}", "holds no list of models"),
        ("- {name: digits}", "model 1: key 'target' is missing; a model has the keys name, target, alias"),
        (
            "- {name: a, target: b}\n- {name: a, target: c, alais: x}",
            "model 2: unknown key 'alais', did you mean 'alias'?",
        ),
        ("- {name: 1, target: b}", "model 1: name: Input should be a valid string"),
        ("- digits", "model 1: Input should be a valid dictionary"),
        ("- {name: a, target: b}\n- {name: a, target: b, alias: c}", "lists a.b twice"),
        ("- [", "cannot read the models of"),
        ("- {name: a, target: 2026-13-01}", "cannot read the models of"),
        ("[" * 100_000, "cannot read the models of"),
    ],
)
def test_a_file_that_is_wrong_is_told_why(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(text)
    with pytest.raises(BadInputError) as refused:
        read_models(path)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"cannot read the models of .*No such file"):
        read_models(tmp_path / "models.yaml")
