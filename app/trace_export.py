"""Traces by OpenTelemetry: from the record that caused a command to the provider's request.

Set up by OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_SAMPLER`, …).
Imported only where a worker is started with `--traces`. No span says who a customer is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from importlib.metadata import version
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import (
    SERVICE_NAME,
    SERVICE_VERSION,
    OTELResourceDetector,
    Resource,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from streams.times import SECOND
from streams.tracing import TRACEPARENT, Headers, parent

_propagator = TraceContextTextMapPropagator()
_NS_OF_INSTANT = 1_000_000_000 // SECOND


class _Ids(RandomIdGenerator):
    """Ids that follow from what is told, where that is known: a cycle that is folded again tells
    the same span, and its command has the same header."""

    def __init__(self) -> None:
        self.trace: str | None = None
        self.span: str | None = None

    def generate_trace_id(self) -> int:
        return super().generate_trace_id() if self.trace is None else _hash(self.trace, 16)

    def generate_span_id(self) -> int:
        return super().generate_span_id() if self.span is None else _hash(self.span, 8)


def _hash(text: str, size: int) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=size).digest(), "big") or 1


class _Request:
    def __init__(self, span: Span) -> None:
        self.headers = _carried(span)
        self._span = span

    def answered(self, status: int) -> None:
        self._span.set_attribute("http.response.status_code", status)


class OpenTelemetryTraces:
    """The `streams.tracing.Traces` of a worker."""

    def __init__(self, processor: Any = None) -> None:
        """`processor`: of the spans; None: what OpenTelemetry's variables name."""
        self._ids = _Ids()
        ours = Resource({SERVICE_NAME: "dialwatch", SERVICE_VERSION: version("dialwatch")})
        self._provider = TracerProvider(
            id_generator=self._ids,
            resource=ours.merge(OTELResourceDetector().detect()),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(processor or BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("dialwatch")

    def close(self) -> None:
        """Send what waits. Blocks."""
        self._provider.shutdown()

    def noticed(
        self,
        notification_id: str,
        scenario: str,
        channel: str,
        *,
        cause: str,
        caused_by: bytes | None,
        now: int,
    ) -> Headers:
        self._ids.trace, self._ids.span = cause or notification_id, notification_id
        at = now * _NS_OF_INSTANT
        try:
            span = self._tracer.start_span(
                f"notice {scenario}",
                _context(caused_by),
                SpanKind.PRODUCER,
                {
                    "messaging.system": "kafka",
                    "dialwatch.cause": cause,
                    "dialwatch.channel": channel,
                    "dialwatch.notification_id": notification_id,
                },
                start_time=at,
            )
        finally:
            self._ids.trace = self._ids.span = None
        span.end(at)
        return [(name, value.encode()) for name, value in _carried(span).items()]

    @contextmanager
    def request(self, channel: str) -> Iterator[_Request]:
        span = self._tracer.start_span(
            f"send {channel}",
            _context(parent.get()),
            SpanKind.CLIENT,
            {"http.request.method": "POST", "dialwatch.channel": channel},
        )
        try:
            yield _Request(span)
        except BaseException as error:
            # Its name alone: what it says may name a URL with a token in it.
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(Status(StatusCode.ERROR))
            raise
        finally:
            span.end()


def _context(traceparent: bytes | None) -> Context:
    """A header that makes no sense begins a new trace."""
    text = (traceparent or b"").decode("ascii", "replace")
    return _propagator.extract({TRACEPARENT: text}, Context())


def _carried(span: Span) -> dict[str, str]:
    carried: dict[str, str] = {}
    _propagator.inject(carried, set_span_in_context(span, Context()))
    return {TRACEPARENT: carried[TRACEPARENT]} if TRACEPARENT in carried else {}
