"""The Open Inference Protocol (version 2) over HTTP, as Triton, KServe and OpenVINO Model Server speak it."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

import slipway
from slipway.errors import BadInputError, SlipwayError
from slipway.serving.access_log import AccessLog
from slipway.serving.engine_queue import CLIENT_LEFT, Done, EngineQueue
from slipway.serving.inference_json import brief, metadata_of
from slipway.serving.limits import MAX_DIGITS, Bodies, Limits, RefusedError, beside, read_body
from slipway.serving.metrics import Metrics
from slipway.serving.payload import InferRequest, read_infer_request, write_infer_response
from slipway.serving.served import ServedModel
from slipway.serving.triton import configuration, statistics

Answer: TypeAlias = Callable[[Request], Awaitable[Response]]

HEAD_BYTES = "Inference-Header-Content-Length"
REQUEST_ID = "X-Request-ID"
EXTENSIONS = ("binary_tensor_data", "model_repository", "model_configuration", "statistics")
LEAST_COMPRESSED_BYTES = 512
MAX_ID, MAX_REASON = 256, 2000  # characters


class InferenceServer:
    """One served model behind the protocol's routes."""

    def __init__(self, model: ServedModel, limits: Limits, log: AccessLog) -> None:
        self._model, self._limits, self._log = model, limits, log
        self._metrics = Metrics()
        self._queue = EngineQueue(model, limits)
        self._bodies = Bodies(limits)
        self.drained = True

    def app(self) -> Starlette:
        """The application, which closes the model when it ends."""
        routes = [
            Route("/v2", self._server),
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
            Route("/v2/repository/index", self._index, methods=["POST"]),
            Route("/metrics", self._exposed),
            Route("/v2/models/stats", self._stats),  # before the routes of a model, one of which it would match
        ]
        of_model: tuple[tuple[str, Answer, str], ...] = (
            ("", self._metadata, "GET"),
            ("/ready", self._ready, "GET"),
            ("/config", self._config, "GET"),
            ("/stats", self._stats, "GET"),
            ("/infer", self._infer, "POST"),
        )
        for place in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
            routes += [Route(place + path, self._for_model(answer), methods=[by]) for path, answer, by in of_model]
        handlers: dict[Any, Any] = {SlipwayError: _refused, HTTPException: _refused, Exception: _broken}
        return Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        yield
        self.drained = await self._queue.close()
        await asyncio.to_thread(self._log.close)

    def _for_model(self, answer: Answer) -> Answer:
        """``answer``, if the request names the model that is served."""

        async def checked(request: Request) -> Response:
            name, version = request.path_params["name"], request.path_params.get("version", self._model.version)
            if (name, version) != (self._model.name, self._model.version):
                message = (
                    f"model {name!r} version {version} is not served here; served: {self._model.name} "
                    f"version {self._model.version}"
                )
                raise RefusedError(404, "unknown model", message)
            return await answer(request)

        return checked

    async def _server(self, _: Request) -> Response:
        return _json({"name": "slipway", "version": slipway.__version__, "extensions": EXTENSIONS})

    async def _live(self, _: Request) -> Response:
        return Response()

    async def _ready(self, _: Request) -> Response:
        return Response(status_code=503 if self._queue.closed else 200)

    async def _index(self, _: Request) -> Response:
        return _json([{"name": self._model.name, "version": self._model.version, "state": "READY", "reason": ""}])

    async def _metadata(self, _: Request) -> Response:
        model = self._model
        ends = {"inputs": metadata_of(model.inputs), "outputs": metadata_of(model.outputs)}
        return _json(model.told() | ends)

    async def _config(self, _: Request) -> Response:
        return _json(configuration(self._model, self._limits.batch))

    async def _stats(self, _: Request) -> Response:
        return _json({"model_stats": [statistics(self._model)]})

    async def _exposed(self, _: Request) -> Response:
        self._metrics.in_flight(self._model.name, self._queue.waiting)
        return Response(self._metrics.exposed(self._log.dropped), media_type=self._metrics.content_type)

    async def _infer(self, request: Request) -> Response:
        start, model = time.perf_counter_ns(), self._model
        try:
            with self._bodies.held() as take:
                asked, done, response = await self._answer(request, take)
        except ClientDisconnect:
            self._failed(start, "client left")
            return Response(status_code=CLIENT_LEFT)
        except SlipwayError as error:
            self._failed(start, getattr(error, "cause", "bad request"))
            raise
        except Exception:
            self._failed(start, "engine")
            raise
        took_ns = time.perf_counter_ns() - start
        model.statistics.answered(took_ns)
        self._metrics.answered(model, took_ns / 1e9, done.queued_ns / 1e9, done.examples)
        self._log.answered(model, _request_id(request, asked), took_ns, done.outputs)
        return response

    async def _answer(self, request: Request, take: Callable[[int], None]) -> tuple[InferRequest, Done, Response]:
        body = await read_body(request, self._limits, take)
        asked = await beside(len(body), read_infer_request, body, _head_bytes(request))
        done = await self._queue.infer(asked.arrays, request.is_disconnected)
        size = sum(array.nbytes for array in done.outputs.values()) + len(asked.request_id or "")
        return asked, done, await beside(size, _answered, self._model, asked, done.outputs, request)

    def _failed(self, start_ns: int, cause: str) -> None:
        self._model.statistics.failed(time.perf_counter_ns() - start_ns)
        self._metrics.failed(self._model.name, cause)


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
    status = 400 if isinstance(error, BadInputError) else getattr(error, "status", 500)
    if (seconds := getattr(error, "retry_after_seconds", None)) is not None:
        headers["Retry-After"] = str(seconds)
    return _json({"error": str(error)[:MAX_REASON]}, status, headers)


async def _broken(_: Request, error: Exception) -> Response:
    return _json({"error": f"the engine failed: {type(error).__name__}"}, 500)
