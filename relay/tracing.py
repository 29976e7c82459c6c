"""Traces that producers began go on through the relay (W3C Trace Context, OpenTelemetry's conventions for messaging).

A record whose headers have a `traceparent` gets a span of its own, `process <topic>`, whose parent is that; the
batch that it is published with gets one, `publish`, that links to those of its records. What the producer did not
sample is not traced; OTEL_TRACES_SAMPLER may leave out more. Imported only where tracing is on.
"""

import asyncio
import contextlib
import itertools
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from relay.batch import Batch, Record
from relay.routes import Partition
from relay.settings import TracingSettings
from shared.version import VERSION

MOST_A_BATCH: Final = 128
"""Records of a batch that are traced, as many as a span may have links; those behind them are not."""

MOST_HEADER_BYTES: Final = 512
"""Of a `tracestate`, as many as everybody has to pass on (W3C Trace Context); a longer one is no trace of ours."""

END_SECONDS: Final = 3.0
"""For the last spans to be sent when the relay ends."""

SEND_SECONDS: Final = 5
"""For one request to the collector. It is made in a thread of its own, and nobody waits for it."""

_WORDS: Final = ("traceparent", "tracestate")

_SAMPLED: Final = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f][13579bdf]")
"""How a `traceparent` begins whose trace is sampled. For each of the others OpenTelemetry would take longer than
publishing a record does."""

_PROPAGATOR: Final = TraceContextTextMapPropagator()


class Tracing:
    """Makes the relay's spans. `close` when it ends."""

    def __init__(self, provider: TracerProvider, group_id: str) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("relay", VERSION)
        self._group_id = group_id

    def read(self, records: Mapping[Partition, Sequence[Record]]) -> "Traced | None":
        """Begin the spans of these records, which were read just now. None when none of them is traced."""
        spans: dict[tuple[Partition, int], Span] = {}
        carried = (
            (partition, record, carrier)
            for partition, rows in records.items()
            for record in rows
            if record.headers and (carrier := _sampled(record.headers)) is not None
        )
        # What is invalid, or is not recorded after all, costs as much: it counts, too.
        for partition, record, carrier in itertools.islice(carried, MOST_A_BATCH):
            if (parent := _parent(carrier)) is not None:
                span = self._begin(parent, partition, record)
                if span.is_recording():
                    spans[partition, record.offset] = span
        return Traced(self._tracer, spans) if spans else None

    def _begin(self, parent: Context, partition: Partition, record: Record) -> Span:
        return self._tracer.start_span(
            f"process {partition.topic}",
            parent,
            SpanKind.CONSUMER,
            {
                "messaging.system": "kafka",
                "messaging.operation.name": "process",
                "messaging.operation.type": "process",
                "messaging.destination.name": partition.topic,
                "messaging.destination.partition.id": str(partition.number),
                "messaging.kafka.offset": record.offset,
                "messaging.consumer.group.name": self._group_id,
            },
        )

    async def close(self) -> None:
        """Send what has ended, for 3 s at most: what is not sent by then is lost."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def end() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # nobody waits any more, and the loop is closed
                loop.call_soon_threadsafe(ended.set)

        # A daemon, since the process must not wait for a collector that does not answer.
        threading.Thread(target=end, name="tracing-end", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                await ended.wait()


class Traced:
    """The spans of a batch's records, by partition and offset, until it is published."""

    def __init__(self, tracer: Tracer, spans: Mapping[tuple[Partition, int], Span]) -> None:
        self._tracer = tracer
        self._spans = spans

    @contextlib.contextmanager
    def publishing(self, batch: Batch) -> Iterator[None]:
        """Ends all spans when its block ends; those of dead letters, and all if it raises, as failed."""
        whole = self._tracer.start_span(
            "publish",
            Context(),
            SpanKind.CLIENT,
            {"db.system.name": "redis", "messaging.batch.message_count": batch.read.total()},
            [Link(span.get_span_context()) for span in self._spans.values()],
        )
        try:
            yield
        except BaseException as error:
            for span in (whole, *self._spans.values()):
                _fail(span, type(error).__name__)
            raise
        else:
            for letter in batch.dead_letters:
                rejected = self._spans.get((letter.partition, letter.record.offset))
                if rejected is not None:
                    _fail(rejected, letter.reason.value)
        finally:
            now_ns = time.time_ns()
            for span in (whole, *self._spans.values()):
                span.end(now_ns)


def parent_of(headers: Sequence[tuple[str, bytes]]) -> Context | None:
    """The sampled trace that a record's headers say it is a part of; None when they say nothing, or nothing valid."""
    carrier = _sampled(headers)
    return None if carrier is None else _parent(carrier)


def _sampled(headers: Sequence[tuple[str, bytes]]) -> Mapping[str, bytes] | None:
    """The headers of a trace, if it looks as if it is sampled: without a look by OpenTelemetry, which takes long."""
    carrier: dict[str, bytes] = {}
    for name, value in headers:
        if name in _WORDS:
            if name in carrier or value is None or len(value) > MOST_HEADER_BYTES or not value.isascii():
                return None
            carrier[name] = value
    return None if _SAMPLED.match(carrier.get(_WORDS[0], b"")) is None else carrier


def _parent(carrier: Mapping[str, bytes]) -> Context | None:
    context = _PROPAGATOR.extract({name: value.decode() for name, value in carrier.items()}, Context())
    return context if get_current_span(context).get_span_context().is_valid else None


def _fail(span: Span, error_type: str) -> None:
    span.set_attribute("error.type", error_type)
    span.set_status(Status(StatusCode.ERROR))


def open_tracing(settings: TracingSettings, *, service: str, instance: str, group_id: str) -> Tracing:
    """Tracing that sends to OTEL_EXPORTER_OTLP_ENDPOINT, in the background, as OTLP over HTTP. At most 2,048 spans
    wait (OTEL_BSP_MAX_QUEUE_SIZE); more are dropped."""
    assert settings.otel_exporter_otlp_endpoint is not None
    name = settings.otel_service_name or f"{service}-relay"
    resource = Resource.create({"service.name": name, "service.version": VERSION, "service.instance.id": instance})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    endpoint = f"{settings.otel_exporter_otlp_endpoint.rstrip('/')}/v1/traces"
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=SEND_SECONDS)))
    return Tracing(provider, group_id)
