"""Data under DVC: every file is hashed against the md5 that git holds before it is used."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from slipway.errors import BadInputError, InfrastructureError, TamperedError
from slipway.records import DataSource

if TYPE_CHECKING:
    from dvc.config import Config
    from dvc.repo import Repo

REMOTE_NAME = "local"
MAX_NAMED_FILES = 5
GIT_INDEX = ""  # as git spells it: ":./file" is the file as staged, which without changes is the committed one
WORKING_TREE = "working tree"
GIT_SECONDS = 30


def verify(directory: Path, revision: str = GIT_INDEX) -> DataSource:
    """Hash a tracked directory (or single file) and compare it with what DVC tracked; sizes and mtimes are not trusted.

    The tracking record counts as git holds it at ``revision``, by default staged or committed: `dvc repro` rewrites the
    one in the working tree to fit whatever data it finds. A record that git does not know counts as it lies there.
    A directory's md5 is that of the JSON list of its files' md5 and relative path, sorted by path, plus ``.dir``.

    Raises:
        BadInputError: the directory is missing or not tracked, or git has no such revision.
        TamperedError: its bytes differ from the tracked ones; the files are named where DVC's cache holds the listing.
    """
    if not directory.exists():
        raise BadInputError(f"data {directory} does not exist; {_way_to_get(directory)}, or check the path")
    tracked = _tracked_md5(directory, revision)
    if tracked is None:
        raise BadInputError(f"data {directory} is not tracked by DVC; run `dvc add {directory}`")
    files = _hash_files(directory)
    md5 = _directory_md5(files) if directory.is_dir() else files[directory.name]
    if md5 != tracked:
        # DVC itself trusts sizes and mtimes: without the deletion or the touch it may see no change.
        raise TamperedError(
            f"data {directory} should have md5 {tracked}, found {md5}: {_differences(directory, tracked, files)}; to "
            f"restore it, delete it and run `git checkout {directory}.dvc` and `dvc checkout {directory}`; to accept "
            f"it, touch its files and run `dvc add {directory}` and `git add {directory}.dvc`"
        )
    size = sum(path.stat().st_size for path in _paths(directory))
    return DataSource(path=str(directory), md5=md5, files=len(files), size_bytes=size)


def track(directory: Path) -> DataSource:
    """Track the directory's present bytes (``dvc add``), unless they are tracked already.

    Raises:
        BadInputError: the directory is missing, lies in no DVC repository, or is the output of a stage.
    """
    try:
        source = verify(directory, WORKING_TREE)
    except BadInputError:
        if not directory.exists():
            raise
    else:
        _keep_in_cache(directory, source.md5)
        return source
    with _repository(directory) as repo:
        for path in _paths(directory):
            path.touch()  # DVC would miss a change of the same size and mtime
        _checked(f"`dvc add {directory}`", lambda: repo.add(str(directory.resolve())))
    return verify(directory, WORKING_TREE)


def ensure_remote(root: Path, remote_dir: Path) -> None:
    """Give the repository at ``root`` a default remote, a local directory, unless a remote is configured.

    It is written to ``.dvc/config.local``, so that no committed file holds a path of this machine.
    """
    from dvc.config import Config

    if not (root / ".dvc").is_dir():
        raise BadInputError(f"{root} is not a DVC repository; run `dvc init` there")
    config = Config(dvc_dir=str(root / ".dvc"))
    if _has_remote(config):
        return
    with config.edit("local") as local:
        local.setdefault("remote", {})[REMOTE_NAME] = {"url": str(remote_dir.resolve())}
        local.setdefault("core", {})["remote"] = REMOTE_NAME


def push(directory: Path) -> int:
    """Copy the tracked bytes to the default remote; return how many files were new there."""
    with _repository(directory) as repo:
        return int(_checked(f"`dvc push {directory}`", lambda: repo.push([str(directory.resolve())])))


def _has_remote(config: Config) -> bool:
    return bool(config["remote"] or config["core"].get("remote"))


def _way_to_get(directory: Path) -> str:
    from dvc.config import Config

    pull, root = f"run `dvc pull {directory}`", _root(directory)
    if root is None or _has_remote(Config(dvc_dir=str(root / ".dvc"))):
        return pull
    return f"no DVC remote is configured to pull it from: `dvc remote add --default NAME URL`, then {pull}"


def _keep_in_cache(directory: Path, md5: str) -> None:
    """Put bytes that were made anew, just as they are tracked, where `push` and `checkout` find them."""
    with _repository(directory) as repo:
        if not _cached(repo, md5).exists():
            _checked(f"`dvc commit {directory}`", lambda: repo.commit(str(directory.resolve()), force=True))


def _cached(repo: Repo, md5: str) -> Path:
    return Path(repo.cache.local.path) / md5[:2] / md5[2:]


def _tracked_md5(directory: Path, revision: str) -> str | None:
    """The md5 that DVC tracks: from DIR.dvc beside it, else from the nearest dvc.lock up to the repository's root."""
    record = directory.with_name(directory.name + ".dvc")
    in_git = None if revision == WORKING_TREE else _text_in_git(record, revision)
    if in_git is not None or record.is_file():
        return _md5_in(_outs(_yaml(record, in_git)), record.parent, directory, record)
    for folder in directory.resolve().parents:
        lock = folder / "dvc.lock"
        if lock.is_file():
            stages = _yaml(lock).get("stages", {}).values()
            outs = [out for stage in stages for out in _outs(stage)]
            if md5 := _md5_in(outs, folder, directory, lock):
                return md5
        if (folder / ".dvc").is_dir():
            break
    return None


def _md5_in(outs: list[dict[str, Any]], base: Path, directory: Path, record: Path) -> str | None:
    for out in outs:
        if (base / out["path"]).resolve() == directory.resolve():
            if "md5" not in out:
                raise BadInputError(f"{record} holds no md5 for {directory}; run `dvc add {directory}`")
            return str(out["md5"])
    return None


def _outs(stage: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list(stage.get("outs") or [])


def _text_in_git(path: Path, revision: str) -> str | None:
    """The file as git holds it at ``revision``; None if git does not know the file, or there is no git."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["git", "-C", str(path.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS, check=False)

    try:
        if revision != GIT_INDEX and git("rev-parse", "--quiet", "--verify", f"{revision}^{{commit}}").returncode:
            raise BadInputError(f"git knows no revision {revision!r} in {path.parent}; see `git log`, or `git fetch`")
        shown = git("show", f"{revision}:./{path.name}")
    except FileNotFoundError:  # git is not installed
        return None
    return None if shown.returncode else shown.stdout


def _yaml(path: Path, text: str | None = None) -> dict[str, Any]:
    """The content of ``path``, or of ``text`` in its place."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8") if text is None else text)
    except yaml.YAMLError as error:
        raise BadInputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise BadInputError(f"{path} is not a DVC file; restore it from version control")
    return content


def _hash_files(directory: Path) -> dict[str, str]:
    """The md5 of every file by its path relative to ``directory``; of a single file by its name."""
    base = directory if directory.is_dir() else directory.parent
    return {file.relative_to(base).as_posix(): _file_md5(file) for file in _paths(directory)}


def _paths(directory: Path) -> list[Path]:
    """Every file of a directory; a single file itself."""
    if directory.is_file():
        return [directory]
    return [Path(folder) / name for folder, _, names in os.walk(directory, followlinks=True) for name in names]


def _file_md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _directory_md5(files: Mapping[str, str]) -> str:
    listing = [{"md5": files[path], "relpath": path} for path in sorted(files)]
    text = json.dumps(listing, sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + ".dir"


def _differences(directory: Path, tracked: str, found: Mapping[str, str]) -> str:
    """Which files changed, went missing or were added, where DVC's cache can tell."""
    if directory.is_file():
        return f"changed {directory.name}"
    with _repository(directory) as repo:
        listing = _cached(repo, tracked)
    if not listing.is_file():
        return "the directory differs (DVC's cache does not hold its listing, so the file cannot be named)"
    expected = {entry["relpath"]: entry["md5"] for entry in json.loads(listing.read_text(encoding="utf-8"))}
    kinds = {
        "changed": [path for path in expected if path in found and found[path] != expected[path]],
        "missing": [path for path in expected if path not in found],
        "extra": [path for path in found if path not in expected],
    }
    return ", ".join(f"{kind} {_some(paths)}" for kind, paths in kinds.items() if paths)


def _some(paths: list[str]) -> str:
    shown = " ".join(sorted(paths)[:MAX_NAMED_FILES])
    return shown + (f" and {len(paths) - MAX_NAMED_FILES} more" if len(paths) > MAX_NAMED_FILES else "")


def _root(directory: Path) -> Path | None:
    return next((folder for folder in directory.resolve().parents if (folder / ".dvc").is_dir()), None)


def _repository(directory: Path) -> Repo:
    root = _root(directory)
    if root is None:
        raise BadInputError(f"data {directory} lies in no DVC repository; run `dvc init` at the project's root")
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    from dvc.repo import Repo

    repo: Repo = _checked(f"opening the DVC repository {root}", lambda: Repo(str(root)))
    repo.scm_context.quiet = True  # it would tell people on stdout which files to `git add`
    return repo


def _checked(command: str, action: Callable[[], Any]) -> Any:
    from dvc.config import NoRemoteError
    from dvc.exceptions import DvcException, OutputDuplicationError, OverlappingOutputPathsError
    from dvc.lock import LockError

    try:
        with warnings.catch_warnings():
            # DVC's own use of its trie, in dvc/repo/trie.py.
            warnings.filterwarnings("ignore", "_NoneStep.value will soon raise", DeprecationWarning)
            return action()
    except (OutputDuplicationError, OverlappingOutputPathsError) as error:
        text = " ".join(str(error).split())
        raise BadInputError(f"{command} failed: {text}; run `dvc commit` to accept a stage's output") from error
    except NoRemoteError as error:
        raise BadInputError(f"{command} found no remote; run `dvc remote add --default NAME URL`") from error
    except LockError as error:
        raise BadInputError(f"{command} found the repository locked by another DVC command; wait for it") from error
    except (DvcException, OSError) as error:
        raise InfrastructureError(f"{command} failed: {' '.join(str(error).split())}") from error
