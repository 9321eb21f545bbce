"""The page at ``/`` for people: what is served and why, how it fares now, and a form to try a stored example."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import orjson
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import slipway
from slipway.serving.answering.served import ServedModel
from slipway.serving.http.inference_json import brief
from slipway.serving.http.limits import MAX_DIGITS
from slipway.serving.page.page_words import Shown, shown
from slipway.serving.page.stored_examples import labels, stored_example

ASSETS = Path(__file__).with_name("assets")
KINDS = {".css": "text/css", ".js": "text/javascript"}
# Nothing but the page's own files and this server: what a model or a person is called cannot become a script.
SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def routes(models: Callable[[], Sequence[ServedModel]]) -> list[Route]:
    """The page, its files and the stored examples; ``models`` tells what is served at the moment."""
    pages = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    files = {path.name: path.read_bytes() for path in ASSETS.iterdir() if path.suffix in KINDS}
    template = pages.get_template("page.html")

    async def page(_: Request) -> Response:
        told = [await asyncio.to_thread(_shown, model) for model in models()]
        text = template.render(models=told, slipway_version=slipway.__version__)
        return _answer(text.encode(), "text/html", "no-store")

    async def file(request: Request) -> Response:
        name = request.path_params["file"]
        if name not in files:
            raise HTTPException(404, f"the page has no file {brief(name)}; it has {', '.join(sorted(files))}")
        return _answer(files[name], KINDS[Path(name).suffix], "no-cache")

    async def example(request: Request) -> Response:
        name, index = request.path_params["name"], request.path_params["index"]
        model = next((one for one in models() if one.name == name), None)
        told = None
        if model is not None and index.isdecimal() and len(index) <= MAX_DIGITS:
            told = await asyncio.to_thread(stored_example, model.origin.example, int(index))
        if told is None:
            message = f"there is no stored example {brief(index)} of model {brief(name)}; see the page at /"
            raise HTTPException(404, message)
        return _answer(orjson.dumps(told, option=orjson.OPT_SERIALIZE_NUMPY), "application/json", "no-store")

    return [
        Route("/", page),
        Route("/page/{file}", file),
        Route("/examples/{name}/{index}", example),
    ]


def _shown(model: ServedModel) -> Shown:
    return shown(model, labels(model.origin.example))


def _answer(body: bytes, kind: str, cached: str) -> Response:
    return Response(body, media_type=kind, headers=SECURITY | {"Cache-Control": cached})
