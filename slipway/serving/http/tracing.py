"""OpenTelemetry traces: a span for each inference request, in its client's trace."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from threading import Thread
from typing import TYPE_CHECKING, Any

from slipway.errors import BadInputError, UnsupportedError, first_line
from slipway.serving.answering.engine_queue import Done
from slipway.serving.answering.served import ServedModel

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

EXPORTER = "OTEL_TRACES_EXPORTER"
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
OTLP = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
PACKAGES = {"otlp_proto_http": "'slipway[otel]'", "otlp_proto_grpc": "opentelemetry-exporter-otlp-proto-grpc"}
EXPORTERS = "opentelemetry_traces_exporter"  # the entry points by which the SDK's exporters are found
SERVICE = "slipway"
CLOSE_SECONDS = 5.0
SERVER_ERROR = 500

# A client can make each of these complain of its headers, once per request.
TALKATIVE = ("opentelemetry.trace.propagation.tracecontext", "opentelemetry.trace.span", "opentelemetry.attributes")


class Traces:
    """Tells every inference request to the exporters of ``provider``, from a thread of theirs."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace import SpanKind, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        for name in TALKATIVE:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._provider, self._tracer = provider, provider.get_tracer(SERVICE)
        self._kind, self._error = SpanKind.SERVER, StatusCode.ERROR
        self._parent: Callable[[Mapping[str, str]], Context] = TraceContextTextMapPropagator().extract

    def answered(self, headers: Mapping[str, str], model: ServedModel, took_ns: int, done: Done) -> None:
        """Tell of a request with these ``headers`` that was answered just now."""
        told = {
            "slipway.examples": done.examples,
            "slipway.batch": done.batch,
            "slipway.queue_ms": done.queued_ns / 1e6,
            "slipway.engine_ms": done.engine_ns / 1e6,
        }
        self._ended(headers, model, took_ns, 200, told)

    def failed(self, headers: Mapping[str, str], model: ServedModel, took_ns: int, status: int, cause: str) -> None:
        """Tell of one that was not, with the HTTP ``status`` it got and the ``cause`` it is counted under."""
        self._ended(headers, model, took_ns, status, {"error.type": cause})

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Send what waits, within so many seconds."""
        closing = Thread(target=self._provider.shutdown, name="traces", daemon=True)
        closing.start()
        closing.join(seconds)

    def _ended(
        self, headers: Mapping[str, str], model: ServedModel, took_ns: int, status: int, more: Mapping[str, Any]
    ) -> None:
        told: dict[str, Any] = {
            "http.request.method": "POST",
            "http.response.status_code": status,
            "slipway.model": model.name,
            "slipway.version": model.version,
            "slipway.digest": model.digest,
        }
        end = time.time_ns()
        sent = {name: value for name in ("traceparent", "tracestate") if (value := headers.get(name)) is not None}
        span = self._tracer.start_span(
            f"infer {model.name}", self._parent(sent), self._kind, {**told, **more}, start_time=end - took_ns
        )
        if status >= SERVER_ERROR:  # a client's own fault is no error of the server's span
            span.set_status(self._error)
        span.end(end)


def exporters_asked(environment: Mapping[str, str]) -> list[str]:
    """The names of the exporters that OpenTelemetry's environment variables ask for.

    Raises:
        BadInputError: its protocol is not known.
    """
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    endpoint = any(environment.get(name) for name in ENDPOINTS)
    names = (environment.get(EXPORTER) or ("otlp" if endpoint else "none")).split(",")
    asked = [name for one in names if (name := one.strip()) not in {"", "none"}]
    if "otlp" not in asked:
        return asked
    protocol = next(filter(None, map(environment.get, PROTOCOLS)), "http/protobuf")
    if protocol not in OTLP:
        raise BadInputError(f"{PROTOCOLS[1]} is {protocol!r}; known: {', '.join(OTLP)}")
    return [OTLP[protocol] if name == "otlp" else name for name in asked]


def traces_of(environment: Mapping[str, str]) -> Traces | None:
    """What the environment asks for, in the variables that every OpenTelemetry program reads; None for nothing.

    Raises:
        BadInputError: its settings cannot be used.
        UnsupportedError: it asks for an exporter that is not installed.
    """
    asked = exporters_asked(environment)
    if not asked:
        return None
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise _missing(asked) from error
    exporters = [_exporter(name) for name in asked]
    named = environment.get("OTEL_SERVICE_NAME") or "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    try:
        provider = TracerProvider(
            resource=Resource.create({} if named else {"service.name": SERVICE}), shutdown_on_exit=False
        )
        for exporter in exporters:
            provider.add_span_processor(BatchSpanProcessor(exporter()))
    except (ValueError, TypeError) as error:
        raise BadInputError(
            f"OpenTelemetry cannot use the environment's OTEL_ variables: {first_line(error)}"
        ) from error
    return Traces(provider)


def _exporter(name: str) -> Callable[[], SpanExporter]:
    found = list(entry_points(group=EXPORTERS, name=name))
    if not found:
        raise _missing([name])
    try:
        exporter: Callable[[], SpanExporter] = found[0].load()
    except ImportError as error:
        raise _missing([name]) from error
    return exporter


def _missing(names: Sequence[str]) -> UnsupportedError:
    known = ", ".join(sorted({one.name for one in entry_points(group=EXPORTERS)})) or "none"
    packages = " ".join(sorted({PACKAGES.get(name, "'slipway[otel]'") for name in names}))
    return UnsupportedError(
        f"the environment asks for traces by {', '.join(names)}, which is not installed (installed: {known}): "
        f"pip install {packages}, or set {EXPORTER}=none"
    )
