"""One trace from who publishes or asks to every stage's write and answer, at a collector; and without one."""

import asyncio
import contextlib
import http.server
import json
import socket
import threading
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.trace import SpanContext, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from structlog.testing import capture_logs

from harness.pipeline import pipeline
from harness.waiting import until, until_async
from jetmem import client
from jetmem.runtime import metrics, tracing

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


class Collector(http.server.ThreadingHTTPServer):
    """Takes OTLP over HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.spans: list = []

    def of(self, trace_id: str) -> dict[str, list]:
        """Spans of a trace by name."""
        found: dict[str, list] = {}
        for span in self.spans:
            if span.trace_id.hex() == trace_id:
                found.setdefault(span.name, []).append(span)
        return found


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        said = ExportTraceServiceRequest()
        said.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.spans += [s for r in said.resource_spans for scope in r.scope_spans for s in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def inject(carrier: dict[str, str]) -> None:
    """As `opentelemetry.propagate.inject` does within a span."""
    carrier["traceparent"] = PARENT
    carrier["tracestate"] = "vendor=" + "x" * 400


def test_one_trace_from_the_agent_to_every_write_and_answer(tmp_path, collector) -> None:
    stop = tracing.export("jetmem-test", "0", f"http://127.0.0.1:{collector.server_port}", 0.0)
    try:
        asyncio.run(said_and_asked(tmp_path, collector))
    finally:
        stop()
    found = collector.of(TRACE)
    assert {"persist write", "index apply", "query search", "ask index find", "index find"} <= set(found), set(found)
    assert {span.parent_span_id.hex() for span in found["query search"]} == {SPAN}
    assert parents(found["ask index find"]) <= ids(found["query search"])
    assert parents(found["index find"]) <= ids(found["ask index find"])
    assert {span.parent_span_id.hex() for span in (*found["persist write"], *found["index apply"])} == {SPAN}
    assert found["persist write"][0].links, "its batch"
    # a background question of a stage begins no trace, and at a share of 0 nothing else is kept
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    exemplars = [
        sample.exemplar.labels["trace_id"]
        for family in metrics.REGISTRY.collect()
        if family.name == "jetmem_request_seconds"
        for sample in family.samples
        if sample.exemplar
    ]
    assert TRACE in exemplars


def ids(spans: list) -> set[bytes]:
    return {span.span_id for span in spans}


def parents(spans: list) -> set[bytes]:
    return {span.parent_span_id for span in spans}


async def said_and_asked(tmp_path, collector: Collector) -> None:
    async with pipeline(tmp_path) as line:
        await line.start("persist", "index", "query")
        async with client.connect(line.broker.url, tenant="acme", agent="alice", inject=inject) as memory:

            async def followed() -> bool:
                """What index scans instead of hearing has no trace, so on a crowded machine one may not be enough."""
                await memory.publish("the build is green again", session="s1")
                return "index apply" in collector.of(TRACE)

            await until_async(followed, "index applied what it heard", deadline_s=60)
            reply = await memory.search("build", mode="text", after="mine", wait_ms=10_000)
            assert reply.hits


def test_batches_are_kept_as_traces_that_link_to_their_messages(collector) -> None:
    stop = tracing.export("jetmem-test", "0", f"http://127.0.0.1:{collector.server_port}", 1.0)
    other = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
    with tracing.writing("persist write", [PARENT, other, "nonsense"]):
        pass
    many = [f"00-{number + 1:032x}-{'2' * 16}-01" for number in range(500)]
    with tracing.writing("index apply", many):
        pass
    stop()
    until(lambda: len(collector.spans) >= 3 + 33, "spans came")
    (batch,) = [span for span in collector.spans if span.name == "persist write" and not span.parent_span_id]
    assert {link.trace_id.hex() for link in batch.links} == {TRACE, "1" * 32}
    assert len(collector.spans) == 3 + 33, "of many the first stand for all"


def test_without_a_collector_the_trace_goes_on_and_is_in_the_log() -> None:
    with capture_logs(processors=[_merge()]) as lines:
        with tracing.serving("query search", {"traceparent": PARENT}):
            assert tracing.headers() == {"traceparent": PARENT}
            assert tracing.exemplar() == {"trace_id": TRACE}
            with tracing.asking("ask index find"):
                assert tracing.headers() == {"traceparent": PARENT}
            tracing_log()
        tracing_log()
    assert [line.get("trace") for line in lines] == [TRACE, None]


def _merge():
    import structlog

    return structlog.contextvars.merge_contextvars


def tracing_log() -> None:
    from jetmem.runtime.logs import logger

    logger().info("answered")


@pytest.mark.parametrize("header", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", PARENT[:-3], "x" * 5000])
def test_a_header_that_is_none_is_no_trace(header: str) -> None:
    with tracing.serving("query search", {"traceparent": header}):
        assert tracing.headers() is None and tracing.exemplar() is None
    with tracing.serving("query search", None), tracing.writing("persist write", [header]):
        assert tracing.headers() is None


def test_what_was_not_to_be_kept_is_passed_on_and_kept_nowhere(collector) -> None:
    stop = tracing.export("jetmem-test", "0", f"http://127.0.0.1:{collector.server_port}", 1.0)
    with tracing.serving("query search", {"traceparent": PARENT[:-2] + "00"}):
        passed_on = tracing.headers()
        assert (
            passed_on and passed_on["traceparent"].split("-")[1] == TRACE and passed_on["traceparent"].endswith("-00")
        )
        assert tracing.exemplar() is None
    stop()
    assert collector.spans == []


def test_a_collector_that_is_away_holds_nobody_up(tmp_path) -> None:
    stop = tracing.export("jetmem-test", "0", "http://127.0.0.1:9", 1.0)
    with tracing.serving("query search", None):
        assert trace.get_current_span().get_span_context().is_valid
    stop()


def test_a_collector_that_does_not_answer_is_given_up_at_an_end() -> None:
    """What is left is dropped after a while, however many batches it is."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        stop = tracing.export("jetmem-test", "0", f"http://127.0.0.1:{deaf.getsockname()[1]}", 1.0)
        for _ in range(1_500):
            with tracing.serving("query search", None):
                pass
        stop()
        deaf.setblocking(False)
        asked = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                deaf.accept()[0].close()
                asked += 1
    assert 1 <= asked <= 2  # three batches were there, and each may take its time-out


def test_a_header_that_is_too_long_is_not_passed_on() -> None:
    assert tracing.carried(PARENT) and not tracing.carried("") and not tracing.carried(PARENT + "-" + "x" * 500)
    with tracing.serving("query search", {"traceparent": PARENT + "-" + "x" * 100_000}):
        assert tracing.headers() is None


def test_ours_is_what_opentelemetry_writes() -> None:
    at = SpanContext(int(TRACE, 16), int(SPAN, 16), is_remote=False, trace_flags=TraceFlags(1))
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, trace.set_span_in_context(trace.NonRecordingSpan(at)))
    assert json.dumps(carrier) == json.dumps({"traceparent": PARENT})
