"""The Open Inference Protocol (version 2) over HTTP, as Triton, KServe and OpenVINO Model Server speak it."""

from __future__ import annotations

import asyncio
import gzip
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

import slipway
from slipway.errors import BadInputError, SlipwayError
from slipway.serving.answering.engine_queue import CLIENT_LEFT, Done
from slipway.serving.answering.repository import Repository, Serving
from slipway.serving.answering.served import ServedModel
from slipway.serving.http.access_log import MAX_ID, AccessLog
from slipway.serving.http.inference_json import brief, metadata_of
from slipway.serving.http.limits import MAX_DIGITS, Bodies, Limits, beside, read_body
from slipway.serving.http.metrics import Metrics
from slipway.serving.http.payload import InferRequest, read_infer_request, write_infer_response
from slipway.serving.http.tracing import Traces
from slipway.serving.http.triton import configuration, statistics
from slipway.serving.page import page

Answer: TypeAlias = Callable[[Request, Serving], Awaitable[Response]]

HEAD_BYTES = "Inference-Header-Content-Length"
REQUEST_ID = "X-Request-ID"
EXTENSIONS = ("binary_tensor_data", "model_repository", "model_configuration", "statistics")
LEAST_COMPRESSED_BYTES = 512
LARGE_JSON_BYTES = 2**20
MAX_REASON = 2000  # characters


class InferenceServer:
    """Served models behind the protocol's routes: one, or a repository whose engines may change meanwhile.

    ``steward`` runs beside the answers from the server's start to its end.
    """

    def __init__(
        self,
        models: Repository | ServedModel,
        limits: Limits,
        log: AccessLog,
        metrics: Metrics | None = None,
        steward: Callable[[], Awaitable[None]] | None = None,
        traces: Traces | None = None,
    ) -> None:
        self.repository = models if isinstance(models, Repository) else Repository(limits, [models])
        self._limits, self._log, self._steward, self._traces = limits, log, steward, traces
        self._metrics = metrics or Metrics()
        self._metrics.watch_inputs(lambda: self.repository.models)
        self._bodies = Bodies(limits)
        self._told: set[tuple[str, str]] = set()
        self._reading = asyncio.Lock()
        self.drained = True

    def app(self) -> Starlette:
        """The application, which closes the model when it ends."""
        places = ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")
        # First, since routes are tried in this order.
        routes = [Route(f"{place}/infer", self._for_model(self._infer), methods=["POST"]) for place in places]
        routes += [
            Route("/v2", self._server),
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
            Route("/v2/repository/index", self._index, methods=["POST"]),
            Route("/metrics", self._exposed),
            *page.routes(lambda: self.repository.models),
            Route("/v2/models/stats", self._all_stats),  # before the routes of a model, one of which it would match
        ]
        of_model: tuple[tuple[str, Answer], ...] = (
            ("", self._metadata),
            ("/ready", self._model_ready),
            ("/config", self._config),
            ("/stats", self._stats),
        )
        for place in places:
            routes += [Route(place + path, self._for_model(answer)) for path, answer in of_model]
        handlers: dict[Any, Any] = {SlipwayError: _refused, HTTPException: _refused, Exception: _broken}
        return Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        steward = None if self._steward is None else asyncio.ensure_future(self._steward())
        yield
        if steward is not None:
            steward.cancel()
        self.drained = await self.repository.close()
        await asyncio.to_thread(self._log.close)
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close)

    def _for_model(self, answer: Answer) -> Callable[[Request], Awaitable[Response]]:
        """``answer``, given the engine that answers for the model that the request names."""

        async def found(request: Request) -> Response:
            return await answer(request, self._found(request))

        return found

    def _found(self, request: Request) -> Serving:
        return self.repository.find(request.path_params["name"], request.path_params.get("version"))

    async def _server(self, _: Request) -> Response:
        return _json({"name": "slipway", "version": slipway.__version__, "extensions": EXTENSIONS})

    async def _live(self, _: Request) -> Response:
        return Response()

    async def _ready(self, _: Request) -> Response:
        return Response(status_code=200 if self.repository.ready else 503)

    async def _model_ready(self, _: Request, serving: Serving) -> Response:
        return Response(status_code=503 if serving.queue.closed else 200)

    async def _index(self, _: Request) -> Response:
        return _json([place.told() for place in self.repository])

    async def _metadata(self, _: Request, serving: Serving) -> Response:
        model = serving.model
        ends = {"inputs": metadata_of(model.inputs), "outputs": metadata_of(model.outputs)}
        return _json(model.told() | ends)

    async def _config(self, _: Request, serving: Serving) -> Response:
        return _json(configuration(serving.model, self._limits.batch))

    async def _stats(self, _: Request, serving: Serving) -> Response:
        return _json({"model_stats": [statistics(serving.model)]})

    async def _all_stats(self, _: Request) -> Response:
        return _json({"model_stats": [statistics(model) for model in self.repository.models]})

    async def _exposed(self, _: Request) -> Response:
        self._metrics.in_flight({place.name: place.in_flight for place in self.repository})
        # Beside the event loop: to hold the inputs against the release's takes milliseconds.
        text = await asyncio.to_thread(self._metrics.exposed, self._log.dropped)
        return Response(text, media_type=self._metrics.content_type)

    async def _infer(self, request: Request, serving: Serving) -> Response:
        start, model = time.perf_counter_ns(), serving.model
        try:
            with self._bodies.held() as take:
                model, asked, done, response = await self._answer(request, take)
        except ClientDisconnect:
            self._failed(request, model, start, CLIENT_LEFT, "client left")
            return Response(status_code=CLIENT_LEFT)
        except SlipwayError as error:
            self._failed(request, model, start, _status_of(error), getattr(error, "cause", "bad request"))
            raise
        except Exception as error:  # noqa: BLE001 - whatever an engine raises, and uvicorn would write down each time
            self._failed(request, model, start, 500, "engine")
            self._tell_once(model, error)
            return await _broken(request, error)
        took_ns = time.perf_counter_ns() - start
        model.statistics.answered(took_ns)
        self._metrics.answered(model, took_ns / 1e9, done.queued_ns / 1e9, done.examples)
        self._log.answered(model, _request_id(request, asked), took_ns, done.outputs)
        if self._traces is not None:
            self._traces.answered(request.headers, model, took_ns, done)
        return response

    async def _answer(
        self, request: Request, take: Callable[[int], None]
    ) -> tuple[ServedModel, InferRequest, Done, Response]:
        body = await read_body(request, self._limits, take)
        head = _head_bytes(request)
        asked = await self._read(body, head)
        # Only now: while the body came, another engine may have taken the place, and the former takes no more.
        serving = self._found(request)
        done = await serving.queue.infer(asked.arrays, request.is_disconnected)
        if serving.model.watch is not None:
            serving.model.watch.saw(asked.arrays)
        size = sum(array.nbytes for array in done.outputs.values()) + len(asked.request_id or "")
        response = await beside(size, _answered, serving.model, asked, done.outputs, request)
        return serving.model, asked, done, response

    async def _read(self, body: bytes, head: int | None) -> InferRequest:
        size = len(body) if head is None else head
        if size <= LARGE_JSON_BYTES:
            return await beside(size, read_infer_request, body, head)
        async with self._reading:  # Python reads but one at a time, and each takes some ten times its size meanwhile
            return await beside(size, read_infer_request, body, head)

    def _failed(self, request: Request, model: ServedModel, start_ns: int, status: int, cause: str) -> None:
        took_ns = time.perf_counter_ns() - start_ns
        model.statistics.failed(took_ns)
        self._metrics.failed(model.name, cause)
        if self._traces is not None:
            self._traces.failed(request.headers, model, took_ns, status, cause)

    def _tell_once(self, model: ServedModel, error: Exception) -> None:
        """Tell a person the first error of each kind: a client that can cause one can cause thousands."""
        kind = (model.digest, type(error).__name__)
        if kind in self._told:
            return
        self._told.add(kind)
        told = "".join(traceback.format_exception(error))
        with suppress(OSError, ValueError):  # a server without a stderr answers all the same
            sys.stderr.write(f"{model.name} version {model.version} failed, further such errors are counted:\n{told}")


def _answered(model: ServedModel, asked: InferRequest, outputs: dict[str, Any], request: Request) -> Response:
    head: dict[str, Any] = {"model_name": model.name, "model_version": model.version}
    if asked.request_id is not None:
        head["id"] = asked.request_id
    body, head_bytes = write_infer_response(head, outputs, asked.wanted(outputs))
    headers = {"X-Engine-Digest": model.digest}
    request_id = _request_id(request, asked)
    if request_id is not None and _fits_header(request_id):
        headers[REQUEST_ID] = request_id
    if head_bytes is not None:
        headers[HEAD_BYTES] = str(head_bytes)
    if "gzip" in request.headers.get("accept-encoding", "") and len(body) >= LEAST_COMPRESSED_BYTES:
        body, headers["Content-Encoding"] = gzip.compress(body, compresslevel=1), "gzip"
    kind = "application/json" if head_bytes is None else "application/octet-stream"
    return Response(body, media_type=kind, headers=headers)


def _head_bytes(request: Request) -> int | None:
    told = request.headers.get(HEAD_BYTES)
    if told is None:
        return None
    if not told.isdecimal() or len(told) > MAX_DIGITS:
        raise BadInputError(f"header {HEAD_BYTES} is the length of the body's JSON in bytes, found {brief(told)}")
    return int(told)


def _request_id(request: Request, asked: InferRequest) -> str | None:
    return request.headers.get(REQUEST_ID) or asked.request_id


def _fits_header(text: str) -> bool:
    """Anything else would break the answer's headers; in the body's JSON any id is told."""
    return 0 < len(text) <= MAX_ID and text.isascii() and text.isprintable() and text == text.strip()


def _json(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


async def _refused(_: Request, error: SlipwayError | HTTPException) -> Response:
    headers: dict[str, str] = {}
    if isinstance(error, HTTPException):
        return _json({"error": error.detail}, error.status_code, dict(error.headers or {}))
    if (seconds := getattr(error, "retry_after_seconds", None)) is not None:
        headers["Retry-After"] = str(seconds)
    return _json({"error": str(error)[:MAX_REASON]}, _status_of(error), headers)


def _status_of(error: SlipwayError) -> int:
    found: int = 400 if isinstance(error, BadInputError) else getattr(error, "status", 500)
    return found


async def _broken(_: Request, error: Exception) -> Response:
    return _json({"error": f"the engine failed: {type(error).__name__}"}, 500)
