"""The pictures of docs/images, taken of real pages in headless Chromium.

`.venv/bin/python docs/screenshots.py` after `make demo`: MLflow's pages of the newest release of this project, and the
page of its served champion. With `make stack` and its environment, Prefect's pages of the newest release there, too.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.cli.console import complain, tell
from slipway.errors import BadInputError, InfrastructureError, SlipwayError

if TYPE_CHECKING:
    from playwright.sync_api import Page

IMAGES = Path(__file__).parent / "images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")
MOST_BYTES = 300_000
START_SECONDS, END_SECONDS, WAIT_MS, DRAW_MS = 180, 30, 120_000, 3_000
# MLflow opens a chat beside its pages; artifacts of an embedded store tell where on this machine they lie.
QUIET = """
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
"""
HIDDEN = """
for (const one of document.querySelectorAll("*")) {
  const text = one.childElementCount ? "" : one.textContent;
  if (text.includes("file:///") || (one.getAttribute("data-component-id") || "").includes("assistant.fab"))
    one.style.visibility = "hidden";
}
"""
PARAMETERS = ("variant", "engine")
METRICS = ("speedup", "latency_p50_ms", "accuracy", "size_bytes")
MACHINE_LEARNING = {"workflowType": "machine_learning"}  # else MLflow opens its pages for language models


class Camera:
    """One page of a browser, and where its pictures go."""

    def __init__(self, page: Page, folder: Path) -> None:
        self.page, self._folder = page, folder

    def open(self, address: str, shown: str) -> None:
        """Open ``address``, and return when ``shown`` is on it.

        Raises:
            InfrastructureError: that text did not come.
        """
        from playwright.sync_api import TimeoutError as NotSeenError

        self.page.goto("about:blank")  # MLflow would otherwise change a part of the page that is there
        self.page.goto(address, wait_until="commit")
        try:
            self.page.get_by_text(shown).first.wait_for()
        except NotSeenError as error:
            raise InfrastructureError(f"{address} does not show {shown!r} after {WAIT_MS // 1000} s") from error
        self.page.wait_for_timeout(DRAW_MS)  # plots are drawn after their words

    def take(self, name: str, height: int) -> None:
        """Keep the upper ``height`` pixels of what is seen.

        Raises:
            InfrastructureError: the picture is too large to be kept in the repository.
        """
        self.page.evaluate(HIDDEN)
        file = self._folder / f"{name}.png"
        width = self.page.evaluate("window.innerWidth")
        self.page.screenshot(path=file, clip={"x": 0, "y": 0, "width": width, "height": height})
        size_bytes = file.stat().st_size
        tell(f"{file}: {size_bytes / 1000:.0f} KB")
        if size_bytes > MOST_BYTES:
            raise InfrastructureError(
                f"{file} has {size_bytes:,} bytes, more than {MOST_BYTES:,}; take less of the page"
            )


@contextmanager
def camera(folder: Path, width: int, height: int) -> Iterator[Camera]:
    """A camera in a browser that reaches this host alone.

    Raises:
        BadInputError: there is no Chromium.
    """
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise BadInputError("found no Chromium; on Debian and Ubuntu `apt install chromium`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, headless=True, args=list(FLAGS))
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
        page.set_default_timeout(WAIT_MS)
        page.add_init_script(QUIET)
        page.route(lambda url: urllib.parse.urlsplit(url).hostname != "127.0.0.1", lambda route: route.abort())
        yield Camera(page, folder)
        browser.close()


@contextmanager
def server(command: Sequence[str], project: Path, health: str) -> Iterator[str]:
    """The URL of a server of this project on a free port, which is put in the place of PORT in ``command``.

    Raises:
        InfrastructureError: it does not answer at the path ``health``.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url, log = f"http://127.0.0.1:{port}", project / ".slipway" / "screenshots.txt"
    words = [word.replace("PORT", str(port)) for word in command]
    with log.open("wb") as stream, subprocess.Popen(words, cwd=project, stdout=stream, stderr=stream) as process:
        try:
            deadline = time.monotonic() + START_SECONDS
            while not _answers(url + health):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise InfrastructureError(f"{words[0]} did not start; see {log}")
                time.sleep(0.5)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()  # noqa: S310 - this host's
    except (urllib.error.URLError, OSError):
        return False
    return True


def program(name: str) -> str:
    """A program of this installation."""
    return str(Path(sys.executable).with_name(name))


def page_of(url: str, place: str, **asked: str) -> str:
    """A page of MLflow."""
    return f"{url}/#/{place}?{urllib.parse.urlencode(asked | MACHINE_LEARNING)}"


def mlflow_pictures(project: Path, folder: Path) -> None:
    """Of the newest release that the project has recorded.

    Raises:
        BadInputError: it has none.
    """
    store = "sqlite:///.slipway/mlflow.db"
    command = (program("mlflow"), "ui", "--backend-store-uri", store, "--port", "PORT", "--workers", "1")
    with server(command, project, "/health") as url, camera(folder, 1900, 900) as shot:
        experiment, release, runs = newest_release(url)
        name = release.data.tags["mlflow.runName"].split("/")[0]
        shot.open(page_of(url, f"experiments/{experiment}/models"), "Registered models")
        # The first columns stay; the others are moved so that the metrics on the data set are seen.
        shot.page.locator(".ag-body-horizontal-scroll-viewport").evaluate("one => { one.scrollLeft = 800 }")
        shot.page.wait_for_timeout(DRAW_MS)
        shot.take("mlflow-models", 660)
        compared = {"runs": json.dumps(runs), "experiments": json.dumps([experiment])}
        shot.open(page_of(url, "compare-runs", **compared), "Parallel Coordinates Plot")
        choose(shot.page)
        shot.take("mlflow-compare", 640)
        artifacts = f"experiments/{experiment}/runs/{release.info.run_id}/artifacts"
        shot.open(page_of(url, f"{artifacts}/report.md"), "Release of models:/")
        shot.take("mlflow-report", 830)
        shot.open(page_of(url, f"models/{name}.x86"), "champion")
        shot.take("mlflow-registry", 560)


def newest_release(url: str) -> tuple[str, Any, list[str]]:
    """The experiment, the run of the newest release, and the runs of its candidates that have figures.

    Raises:
        BadInputError: there is none.
    """
    from mlflow import MlflowClient

    client = MlflowClient(url)
    experiment = client.get_experiment_by_name("slipway")
    found = client.search_runs([experiment.experiment_id]) if experiment else []
    releases = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    if experiment is None or not releases:
        raise BadInputError("nothing was released here yet; run `make demo` first")
    release = releases[0]
    own = [run for run in found if run.data.tags.get("mlflow.parentRunId") == release.info.run_id and run.data.metrics]
    return experiment.experiment_id, release, [run.info.run_id for run in own]


def choose(page: Page) -> None:
    """Let the parallel coordinates show what was chosen among, and by which figures."""
    page.get_by_role("button", name="Clear All").click()
    for box, names in enumerate((PARAMETERS, METRICS)):
        combobox = page.get_by_role("combobox").nth(box)
        combobox.click()
        for name in names:
            page.keyboard.type(name)
            page.keyboard.press("Enter")
        page.keyboard.press("Escape")
    page.wait_for_timeout(DRAW_MS)


def slipway_pictures(project: Path, folder: Path) -> None:
    """Of the page of the served champion, asked for one stored example."""
    command = (program("slipway"), "serve", "digits-resnet", "--target", "x86", "--port", "PORT")
    with server(command, project, "/v2/health/ready") as url, camera(folder, 1280, 1700) as shot:
        shot.open(url, "As the release measured it")
        shot.page.get_by_role("button", name="Ask the model").click()
        shot.page.locator(".took").wait_for()
        shot.take("slipway-page", 1000)


def prefect_pictures(_: Path, folder: Path) -> None:
    """Of the newest run of a release, and of its artifacts, on the server that PREFECT_API_URL names.

    Raises:
        BadInputError: no release was run there.
    """
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter, FlowRunFilterId
    from prefect.client.schemas.sorting import FlowRunSort
    from prefect.settings import PREFECT_API_AUTH_STRING

    from tasks.prefect_api import prefect

    with prefect() as client:
        names = FlowFilterName(any_=["release-version", "release"])
        newest = FlowRunSort.EXPECTED_START_TIME_DESC
        runs = client.read_flow_runs(flow_filter=FlowFilter(name=names), sort=newest, limit=1)
        pages = str(client.api_url).rstrip("/").removesuffix("/api")
        if not runs:
            raise BadInputError(f"no release was run on {pages}; start one: slipway release MODEL_URI")
        kept = client.read_artifacts(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[runs[0].id])))
    with camera(folder, 1600, 1000) as shot:
        if string := PREFECT_API_AUTH_STRING.value():
            # Where its page for logging in keeps what a person types there.
            typed = base64.b64encode(string.encode()).decode()
            shot.page.add_init_script(f'localStorage.setItem("prefect-password", "{typed}")')
        shot.open(f"{pages}/runs/flow-run/{runs[0].id}", str(runs[0].name))
        shot.take("prefect-run", 1000)
        shot.page.get_by_role("tab", name="Artifacts").or_(shot.page.get_by_text("Artifacts", exact=True)).first.click()
        shot.page.wait_for_timeout(DRAW_MS)
        shot.take("prefect-artifacts", 1000)
        for artifact in kept:
            kind = (artifact.key or "").partition("-")[0]
            if kind in {"candidates", "release"}:
                shot.open(f"{pages}/artifacts/artifact/{artifact.id}", str(artifact.key))
                shot.take(f"prefect-{kind}", 1000)


PARTS: dict[str, Callable[[Path, Path], None]] = {
    "mlflow": mlflow_pictures,
    "slipway": slipway_pictures,
    "prefect": prefect_pictures,
}


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"only these: {', '.join(PARTS)}")
    parser.add_argument("--project", type=Path, default=Path.cwd(), help="where something was released")
    parser.add_argument("--into", type=Path, default=IMAGES, help="the folder of the pictures")
    given = parser.parse_args()
    wanted = given.parts or [name for name in PARTS if name != "prefect" or "PREFECT_API_URL" in os.environ]
    with ExitStack() as ended:
        ended.callback(lambda: (given.project / ".slipway" / "screenshots.txt").unlink(missing_ok=True))
        try:
            given.into.mkdir(parents=True, exist_ok=True)
            for name in wanted:
                if name not in PARTS:
                    raise BadInputError(f"there are no pictures of {name!r}, only of {', '.join(PARTS)}")
                PARTS[name](given.project.resolve(), given.into)
        except SlipwayError as error:
            ended.pop_all()  # the server's log is what tells why
            complain(str(error))
            sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
