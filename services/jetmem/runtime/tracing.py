"""Traces: W3C context in and out of messages; spans go to a collector where a setting names one (decision 0024).

Without a collector context is still passed on, so that a trace does not end with us and a log line names it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Final

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanContext, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from jetmem_schemas.subjects import TRACE_HEADER

#: Messages of one write that are followed; a batch has a thousand.
_FOLLOWED_MAX: Final = 32
#: A collector that is away must not hold up an end.
_SEND_S: Final = 2.0
#: A traceparent is 55 characters; later versions may add to it. What is longer names no trace and is not passed on.
_CHARS_MAX: Final = 512
_W3C: Final = TraceContextTextMapPropagator()

_tracer: trace.Tracer | None = None


def export(service: str, version: str, endpoint: str, share: float) -> Callable[[], None]:
    """Send spans of this process to a collector.

    Args:
        service: What the process is called.
        version: Of its code.
        endpoint: OTLP over HTTP, without a path: `http://collector:4318`.
        share: Of the traces that begin here, 0 to 1; of those that come from outside, their beginner has decided.

    Returns:
        What sends the rest and stops; it blocks for seconds at most.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    global _tracer
    resource = Resource({"service.name": service, "service.version": version})
    provider = TracerProvider(resource=resource, sampler=ParentBased(TraceIdRatioBased(share)), shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=_SEND_S)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _tracer = provider.get_tracer("jetmem", version)

    def stop() -> None:
        global _tracer
        _tracer = None
        overdue = threading.Timer(_SEND_S, exporter.shutdown)  # the batches left then are dropped
        overdue.daemon = True
        overdue.start()
        provider.shutdown()
        overdue.cancel()

    return stop


@contextmanager
def serving(name: str, headers: Mapping[str, str] | None) -> Iterator[None]:
    """A request is answered: what happens within belongs to its trace, and log lines say which in `trace`."""
    came = (headers or {}).get(TRACE_HEADER)
    if came is None and _tracer is None:
        yield
        return
    parent = _context(came)
    if _tracer is None:
        span: trace.Span = trace.NonRecordingSpan(trace.get_current_span(parent).get_span_context())
    else:
        span = _tracer.start_span(name, context=parent, kind=SpanKind.SERVER)
    with trace.use_span(span, end_on_exit=True), structlog.contextvars.bound_contextvars(**_named(span)):
        yield


@contextmanager
def asking(name: str) -> Iterator[None]:
    """Another is asked within a trace; outside of one nothing is told."""
    if _tracer is None or not trace.get_current_span().get_span_context().is_valid:
        yield
        return
    with _tracer.start_as_current_span(name, kind=SpanKind.CLIENT):
        yield


@contextmanager
def writing(name: str, traces: Collection[str]) -> Iterator[None]:
    """Messages of several traces are written together.

    The write is a trace of its own with a link to each message, and each message's trace has a span with a link to it;
    of many messages the first stand for all.
    """
    if _tracer is None or not traces:
        yield
        return
    parents = [_context(each) for each in islice(traces, _FOLLOWED_MAX)]
    links = [Link(at) for each in parents if (at := _at(each)).is_valid]
    with ExitStack() as open_spans:
        whole = _tracer.start_span(name, context=Context(), kind=SpanKind.CONSUMER, links=links)
        open_spans.callback(whole.end)
        for each in parents:
            if _at(each).is_valid:
                link = Link(whole.get_span_context())
                open_spans.callback(_tracer.start_span(name, each, SpanKind.CONSUMER, links=[link]).end)
        yield


def headers() -> dict[str, str] | None:
    """What a message carries so that what it leads to belongs to this trace; None outside of one."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    return {TRACE_HEADER: carrier[TRACE_HEADER]} if TRACE_HEADER in carrier else None


def carried(header: str) -> bool:
    """Whether a header that somebody sent may name a trace; any other is of no use to who comes after."""
    return 0 < len(header) <= _CHARS_MAX


def exemplar() -> dict[str, str] | None:
    """For an observation of a histogram: the trace it was made in, if that is kept somewhere."""
    at = trace.get_current_span().get_span_context()
    return {"trace_id": trace.format_trace_id(at.trace_id)} if at.is_valid and at.trace_flags.sampled else None


def _context(header: str | None) -> Context:
    """Of a header that somebody sent; of none, or one that is wrong, an empty one."""
    return _W3C.extract({TRACE_HEADER: header} if header and carried(header) else {}, context=Context())


def _at(context: Context) -> SpanContext:
    return trace.get_current_span(context).get_span_context()


def _named(span: trace.Span) -> dict[str, str]:
    at = span.get_span_context()
    return {"trace": trace.format_trace_id(at.trace_id)} if at.is_valid else {}
