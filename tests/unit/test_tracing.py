"""relay/tracing.py: which records are traced, and what their spans say."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import SpanKind, StatusCode

from relay import tracing as tracing_module
from relay.batch import Batch, make_batch
from relay.decode import Decode
from relay.routes import Partition
from relay.tracing import MOST_A_BATCH, MOST_HEADER_BYTES, Tracing, parent_of
from shared.errors import EpochChanged
from shared.keys import Keys

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{PARENT}-01"
RISK = Partition("risk-events", 2)


@dataclass(frozen=True)
class R:
    """A record."""

    offset: int
    headers: Sequence[tuple[str, Any]] = ()
    value: bytes = b'{"user_id":"ann"}'
    timestamp: int = 1000
    key: bytes | None = None


def traceparent(text: str = SAMPLED) -> tuple[str, bytes]:
    return "traceparent", text.encode("latin-1")


@pytest.fixture
def exported() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exported: SpanExporter) -> Tracing:
    provider = TracerProvider(sampler=ParentBased(ALWAYS_ON), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exported))
    return Tracing(provider, "the-group")


def batch_of(*records: R) -> Batch:
    return make_batch({RISK: records}, term=1, generations={RISK: 1}, decode=Decode(1000, {}), keys=Keys())


def publish(tracing: Tracing, *records: R) -> None:
    traced = tracing.read({RISK: records})
    assert traced is not None
    with traced.publishing(batch_of(*records)):
        pass


def spans_of(exported: InMemorySpanExporter) -> tuple[ReadableSpan, list[ReadableSpan]]:
    """That of the batch, and those of its records."""
    spans = exported.get_finished_spans()
    (whole,) = (span for span in spans if span.name == "publish")
    return whole, [span for span in spans if span is not whole]


def test_a_trace_goes_on_and_its_batch_links_to_it(tracing: Tracing, exported: InMemorySpanExporter) -> None:
    publish(tracing, R(6), R(7, [("other", b"x"), traceparent(), ("tracestate", b"vendor=1")]))
    whole, (span,) = spans_of(exported)
    assert span.name == "process risk-events"
    assert span.kind is SpanKind.CONSUMER
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
    assert span.context.trace_state["vendor"] == "1"
    assert span.attributes == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "risk-events",
        "messaging.destination.partition.id": "2",
        "messaging.kafka.offset": 7,
        "messaging.consumer.group.name": "the-group",
    }
    assert span.status.status_code is StatusCode.UNSET
    assert whole.parent is None
    assert [link.context for link in whole.links] == [span.context]
    assert whole.attributes == {"db.system.name": "redis", "messaging.batch.message_count": 2}
    assert span.start_time is not None
    assert whole.start_time is not None
    assert span.start_time <= whole.start_time


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("tracestate", b"vendor=1")],
        [("Traceparent", SAMPLED.encode())],
        [traceparent("")],
        [traceparent("hello")],
        [traceparent("é" + SAMPLED)],
        [("traceparent", None)],
        [("traceparent", b"\xff\xfe")],
        [traceparent(f"ff-{TRACE}-{PARENT}-01")],
        [traceparent(f"00-{'0' * 32}-{PARENT}-01")],
        [traceparent(f"00-{TRACE}-{'0' * 16}-01")],
        [traceparent(f"00-{TRACE.upper()}x-{PARENT}-01")],
        [traceparent(f"00-{TRACE}-{PARENT}-01-more")],
        [traceparent(SAMPLED * 1000)],
        [traceparent(), traceparent()],
        [traceparent(), ("tracestate", b"vendor=" + b"1" * MOST_HEADER_BYTES)],
    ],
    ids=lambda headers: str(headers)[:60],
)
def test_what_is_no_traceparent_is_ignored(tracing: Tracing, headers: list[tuple[str, Any]]) -> None:
    assert parent_of(headers) is None
    assert tracing.read({RISK: [R(7, headers)]}) is None


@pytest.mark.parametrize("flags", ["00", "02", "fe"])
def test_what_the_producer_did_not_sample_is_not_traced(tracing: Tracing, flags: str) -> None:
    assert tracing.read({RISK: [R(7, [traceparent(f"00-{TRACE}-{PARENT}-{flags}")])]}) is None


@pytest.mark.parametrize("text", [f"00-{TRACE}-{PARENT}-03", f"01-{TRACE}-{PARENT}-01-what the next version adds"])
def test_other_flags_and_later_versions_are_read(tracing: Tracing, text: str) -> None:
    assert tracing.read({RISK: [R(7, [traceparent(text)])]}) is not None


def test_what_is_not_sampled_does_not_count_as_traced(tracing: Tracing, exported: InMemorySpanExporter) -> None:
    others = [R(offset, [traceparent(f"00-{TRACE}-{PARENT}-00")]) for offset in range(2 * MOST_A_BATCH)]
    publish(tracing, *others, R(1_000, [traceparent()]))
    assert len(spans_of(exported)[1]) == 1


def test_what_is_invalid_after_all_counts_too(tracing: Tracing) -> None:
    """It took as long to find that out."""
    invalid = [R(offset, [traceparent(f"00-{'0' * 32}-{PARENT}-01")]) for offset in range(MOST_A_BATCH)]
    assert tracing.read({RISK: [*invalid, R(1_000, [traceparent()])]}) is None
    assert tracing.read({RISK: [*invalid[1:], R(1_000, [traceparent()])]}) is not None


def test_a_malformed_tracestate_does_not_end_a_trace(tracing: Tracing, exported: InMemorySpanExporter) -> None:
    publish(tracing, R(7, [traceparent(), ("tracestate", b"=,=,;")]))
    assert len(spans_of(exported)[1]) == 1


def test_no_more_of_a_batch_than_a_span_has_links(tracing: Tracing, exported: InMemorySpanExporter) -> None:
    publish(tracing, *(R(offset, [traceparent()]) for offset in range(MOST_A_BATCH + 50)))
    whole, spans = spans_of(exported)
    assert len(whole.links) == len(spans) == MOST_A_BATCH


def test_a_dead_letter_s_span_says_why(tracing: Tracing, exported: InMemorySpanExporter) -> None:
    publish(tracing, R(7, [traceparent()], b"not JSON"), R(8, [traceparent()]))
    by_offset = {span.attributes["messaging.kafka.offset"]: span for span in spans_of(exported)[1] if span.attributes}
    assert by_offset[7].status.status_code is StatusCode.ERROR
    assert (by_offset[7].attributes or {})["error.type"] == "not_json"
    assert by_offset[8].status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("error", [EpochChanged, asyncio.CancelledError])
def test_what_was_not_published_says_so(
    tracing: Tracing, exported: InMemorySpanExporter, error: type[BaseException]
) -> None:
    record = R(7, [traceparent()])
    traced = tracing.read({RISK: [record]})
    assert traced is not None
    with pytest.raises(error), traced.publishing(batch_of(record)):
        raise error
    for span in exported.get_finished_spans():
        assert span.status.status_code is StatusCode.ERROR
        assert (span.attributes or {})["error.type"] == error.__name__


class Hanging(SpanExporter):
    """A collector that does not answer."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        time.sleep(60)


async def test_the_end_does_not_wait_for_a_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing_module, "END_SECONDS", 0.05)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(Hanging()))
    began = time.monotonic()
    await Tracing(provider, "the-group").close()
    assert time.monotonic() - began < 30


def test_a_batch_without_traces_costs_no_span(tracing: Tracing, exported: InMemorySpanExporter) -> None:
    assert tracing.read({RISK: [R(1), R(2)]}) is None
    assert not exported.get_finished_spans()
