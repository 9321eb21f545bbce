from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import EntryPoints
from typing import Any

import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from slipway.errors import BadInputError, UnsupportedError
from slipway.serving.answering.engine_queue import Done
from slipway.serving.http import tracing
from slipway.serving.http.tracing import Traces, exporters_asked, traces_of
from tests.fakes.batch_engine import BatchEngine

MODEL = BatchEngine().served
DONE = Done({"x": np.zeros((2, 1), np.float32)}, examples=2, queued_ns=1_500_000, engine_ns=2_500_000, batch=8)
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=x"}


def spans_of(headers: Mapping[str, str], status: int = 200) -> tuple[ReadableSpan, ...]:
    """What one request leaves behind."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    traces = Traces(provider)
    if status == 200:
        traces.answered(headers, MODEL, 5_000_000, DONE)
    else:
        traces.failed(headers, MODEL, 5_000_000, status, "overload")
    traces.close()
    return exporter.get_finished_spans()


def test_an_answer_is_a_span_in_its_clients_trace_with_what_became_of_it() -> None:
    (span,) = spans_of(HEADERS)

    assert span.context is not None
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
    assert span.context.trace_state.get("vendor") == "x"
    assert span.name == "infer fake"
    assert dict(span.attributes or {}) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "slipway.model": "fake",
        "slipway.version": "1",
        "slipway.digest": "d" * 64,
        "slipway.examples": 2,
        "slipway.batch": 8,
        "slipway.queue_ms": 1.5,
        "slipway.engine_ms": 2.5,
    }
    assert span.status.is_ok
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.end_time - span.start_time == 5_000_000


@pytest.mark.parametrize(("status", "ok"), [(400, True), (499, True), (500, False), (503, False)])
def test_what_was_not_answered_tells_why_and_only_the_servers_own_failures_are_errors(status: int, ok: bool) -> None:
    (span,) = spans_of({}, status)

    assert span.attributes is not None
    assert (span.attributes["http.response.status_code"], span.attributes["error.type"]) == (status, "overload")
    assert "slipway.batch" not in span.attributes
    assert span.status.is_ok is ok
    assert span.parent is None


@pytest.mark.parametrize(
    "headers",
    [
        {"traceparent": ""},
        {"traceparent": "00"},
        {"traceparent": f"00-{'0' * 32}-{PARENT}-01"},
        {"traceparent": f"ff-{TRACE}-{PARENT}-01"},
        {"traceparent": "x" * 60_000},
        {"traceparent": "00-\udcff-é-01"},
        HEADERS | {"tracestate": "=" * 60_000},
        HEADERS | {"tracestate": ",".join(f"k{n}=v" for n in range(1000))},
        HEADERS | {"tracestate": "k=v,k=v,,=,é"},
        {"tracestate": "k=v"},
    ],
)
def test_headers_that_make_no_sense_begin_a_trace_and_are_not_complained_of(
    headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    (span,) = spans_of(headers)
    assert (span.parent is None) == (headers.get("traceparent") != HEADERS["traceparent"])
    assert caplog.records == []


def test_a_trace_that_its_client_does_not_sample_is_not_told() -> None:
    assert spans_of({"traceparent": f"00-{TRACE}-{PARENT}-00"}) == ()


OTLP = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.mark.parametrize(
    ("environment", "asked"),
    [
        ({}, []),
        ({OTLP: ""}, []),
        ({OTLP: "http://collector:4318"}, ["otlp_proto_http"]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318"}, ["otlp_proto_http"]),
        ({OTLP: "x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, ["otlp_proto_grpc"]),
        ({OTLP: "x", "OTEL_TRACES_EXPORTER": "none"}, []),
        ({OTLP: "x", "OTEL_SDK_DISABLED": "True"}, []),
        ({"OTEL_TRACES_EXPORTER": "otlp, console"}, ["otlp_proto_http", "console"]),
    ],
)
def test_the_variables_that_every_opentelemetry_program_reads_choose_the_exporters(
    environment: dict[str, str], asked: list[str]
) -> None:
    assert exporters_asked(environment) == asked


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(BadInputError, match="OTEL_EXPORTER_OTLP_PROTOCOL is 'http/json'; known: http/protobuf, grpc"):
        exporters_asked({OTLP: "x", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"})


def test_nothing_is_traced_unless_it_is_asked_for() -> None:
    assert traces_of({}) is None


def test_an_exporter_that_is_not_installed_is_told_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracing, "entry_points", lambda **_: EntryPoints())
    with pytest.raises(UnsupportedError, match=r"otlp_proto_http, which is not .*: pip install 'slipway\[otel\]', or"):
        traces_of({OTLP: "http://collector:4318"})
    with pytest.raises(UnsupportedError, match="pip install opentelemetry-exporter-otlp-proto-grpc, or"):
        traces_of({OTLP: "http://collector:4318", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})


def test_settings_that_the_sdk_refuses_are_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_exporter", lambda _: lambda: int("none"))
    with pytest.raises(BadInputError, match=r"^OpenTelemetry cannot use the environment's OTEL_ variables: ValueError"):
        traces_of({"OTEL_TRACES_EXPORTER": "console"})


@pytest.mark.parametrize(
    ("environment", "service"),
    [
        ({}, "slipway"),
        ({"OTEL_SERVICE_NAME": "mine"}, "mine"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=ours"}, "ours"),
    ],
)
def test_spans_are_told_in_the_name_of_the_service(
    environment: dict[str, str], service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = InMemorySpanExporter()
    monkeypatch.setattr(tracing, "_exporter", lambda _: lambda: exporter)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    traces = traces_of({"OTEL_TRACES_EXPORTER": "console"} | environment)
    assert traces is not None
    traces.answered(HEADERS, MODEL, 1000, DONE)
    traces.close(30)
    (span,) = exporter.get_finished_spans()
    assert span.resource.attributes["service.name"] == service


@contextmanager
def collector() -> Iterator[tuple[str, list[Any]]]:
    """Where an OpenTelemetry collector would listen, and the spans it got."""
    got: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
            got.extend(span for one in body.resource_spans for scope in one.scope_spans for span in scope.spans)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", got
        finally:
            server.shutdown()
            thread.join()


def test_a_collector_gets_the_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra otel is not installed")
    with collector() as (endpoint, got):
        monkeypatch.setenv(OTLP, endpoint)
        traces = traces_of({OTLP: endpoint})
        assert traces is not None
        traces.answered(HEADERS, MODEL, 1000, DONE)
        traces.close(30)
    assert [(span.name, span.trace_id.hex(), span.parent_span_id.hex()) for span in got] == [
        ("infer fake", TRACE, PARENT)
    ]
