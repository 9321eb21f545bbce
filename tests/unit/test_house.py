"""The rules of the house that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PACKAGES = ("flows", "tasks", "slipway")
MODULES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 50
CODE = re.compile(r"^```.*?\n(.*?)^```|`([^`\n]+)`", re.MULTILINE | re.DOTALL)
# Spelt in two halves, so that this file names none either.
REGISTRY_HOSTS = tuple(
    "".join(halves)
    for halves in (
        ("pypi", ".org"),
        ("pythonhosted", ".org"),
        ("download.pytorch", ".org"),
        ("registry.npmjs", ".org"),
        ("deb.debian", ".org"),
        ("conda.anaconda", ".org"),
    )
)


def committed_files() -> Iterator[Path]:
    """Every file that git holds or would hold."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    paths = (ROOT / name for name in listing.stdout.decode().split("\0") if name)
    return (path for path in paths if path.is_file())


def commands(program: str) -> set[str]:
    """The word after ``program`` wherever a document shows it as code."""
    text = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md"))
    code = "\n".join(block or span for block, span in CODE.findall(text))
    return set(re.findall(rf"^\W*{program} ([a-z]+)", code, re.MULTILINE))


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("module", MODULES, ids=relative)
def test_module_is_short_and_described(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    tree = ast.parse(text)
    long = [
        f"{node.name} has {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= MAX_FUNCTION_LINES
    ]
    assert long == []
    assert text.count("\n") <= MAX_MODULE_LINES
    assert ast.get_docstring(tree), "no docstring"


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    assert [
        relative(module) for module in MODULES if module.stem in {"utils", "util", "helpers", "common", "misc"}
    ] == []


def test_every_make_command_in_the_documents_is_a_target() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert commands("make") - targets == set()


def test_the_run_of_ci_is_made_of_commands_that_the_documents_tell() -> None:
    (loop,) = re.findall(r"^for target in ([a-z ]+); do$", (ROOT / ".ci/run").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(loop.split()) <= commands("make")


def test_no_file_names_a_package_registry() -> None:
    """Where packages come from is the business of whoever installs, told to pip by its own settings."""
    found = [
        f"{relative(path)} names {host}"
        for path in committed_files()
        for host in REGISTRY_HOSTS
        if host.encode() in path.read_bytes()
    ]
    assert found == []


def test_the_lock_holds_exact_pins_without_places() -> None:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pin = re.compile(r"[\w.-]+==[\w.]+(; python_version [<>]=? \"3\.\d+\")?")
    assert [line for line in lines if not line.startswith("#") and not pin.fullmatch(line)] == []


def test_the_lock_keeps_the_bounds_of_the_project() -> None:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = {
        canonicalize_name(name): version.split(";")[0]
        for name, version in (line.split("==", 1) for line in lines if not line.startswith("#"))
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    (bundle,) = map(Requirement, extras["all"])
    locked = [extras[name] for name in ("dev", *bundle.extras)]  # tensorrt is in no bundle
    wanted = [Requirement(text) for text in (*project["dependencies"], *chain(*locked))]
    outside = [
        f"{requirement}: locked {pins.get(canonicalize_name(requirement.name))}"
        for requirement in wanted
        if requirement.name != project["name"]
        and not requirement.specifier.contains(pins.get(canonicalize_name(requirement.name), "0"))
    ]
    assert outside == []
