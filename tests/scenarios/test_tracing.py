"""A producer's trace goes on in the relay, and reaches a collector (OTLP over HTTP)."""

import asyncio
import json
import secrets
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from aiohttp import web
from harness.producer import Record
from harness.stage import Stage
from harness.waiting import eventually
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from demo.ports import free_port
from demo.process import ROOT, Processes


class Collector:
    """Takes spans. `hangs`: takes requests and never answers."""

    def __init__(self) -> None:
        self.port = free_port()
        self.spans: list[Any] = []
        self.resources: list[Mapping[str, str]] = []
        self.requests = 0
        self.hangs = False

    @property
    def env(self) -> dict[str, str]:
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}", "OTEL_BSP_SCHEDULE_DELAY": "200"}

    async def take(self, request: web.Request) -> web.Response:
        self.requests += 1
        if self.hangs:
            await asyncio.sleep(300)
        assert request.content_type == "application/x-protobuf"
        sent = ExportTraceServiceRequest.FromString(await request.read())
        for of_resource in sent.resource_spans:
            attributes = of_resource.resource.attributes
            self.resources.append({attribute.key: attribute.value.string_value for attribute in attributes})
            for of_scope in of_resource.scope_spans:
                self.spans += of_scope.spans
        return web.Response(content_type="application/x-protobuf")


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", collector.port).start()
    yield collector
    await runner.cleanup()


def record(user: str, traceparent: bytes) -> Record:
    value = {"user_id": user, "nonce": secrets.token_hex(4)}
    return Record("risk-events", json.dumps(value).encode(), user.encode(), (("traceparent", traceparent),), 0)


async def test_spans_of_records_reach_the_collector_with_their_producers_as_parents(
    stage: Stage, collector: Collector
) -> None:
    await stage.start(relay := stage.add_relay(env=collector.env))
    trace, parent = secrets.token_hex(16), secrets.token_hex(8)
    await stage.producer.send(
        [
            record(stage.users[0], f"00-{trace}-{parent}-01".encode()),
            record(stage.users[0], f"00-{secrets.token_hex(16)}-{parent}-00".encode()),
            record(stage.users[0], b"hello"),
        ]
    )
    await eventually(lambda: len(collector.spans) >= 2, "the spans of the record and of its batch")
    (span,) = (span for span in collector.spans if span.name == "process risk-events")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (trace, parent)
    (whole,) = (span for span in collector.spans if span.name == "publish")
    assert [(link.trace_id, link.span_id) for link in whole.links] == [(span.trace_id, span.span_id)]
    assert collector.resources[0]["service.name"] == "notification-relay"
    assert relay.is_running


async def test_the_last_spans_are_sent_when_the_relay_ends(stage: Stage, collector: Collector) -> None:
    relay = stage.add_relay(env=collector.env | {"OTEL_BSP_SCHEDULE_DELAY": "600000", "OTEL_SERVICE_NAME": "mine"})
    gateway = stage.add_gateway()
    await stage.start(relay, gateway)
    client = await stage.connect(stage.users[0], gateway)
    sent = record(stage.users[0], f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01".encode())
    await stage.producer.send([sent])
    await eventually(lambda: bool(client.frames), "the event")
    assert not collector.spans
    assert await relay.terminate() == 0
    assert {span.name for span in collector.spans} == {"process risk-events", "publish"}
    assert collector.resources[0]["service.name"] == "mine"


async def test_a_collector_that_hangs_or_is_away_holds_up_nothing(stage: Stage, collector: Collector) -> None:
    collector.hangs = True
    away = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}", "OTEL_BSP_SCHEDULE_DELAY": "200"}
    gateway = stage.add_gateway()
    await stage.start(gateway)
    for env in (collector.env, away):
        relay = stage.add_relay(f"relay-{len(stage.relays)}", env=env)
        await stage.start(relay)
        client = await stage.connect(stage.users[0], gateway)
        headers = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01".encode()
        await stage.producer.send([record(stage.users[0], headers) for _ in range(200)])
        await eventually(lambda: len(client.frames) == 200, "the events")  # noqa: B023
        if env is not away:
            await eventually(lambda: collector.requests > 0, "a request to the collector")
        assert await relay.terminate() == 0
        assert relay.log().count("\n") < 60, relay.log()
        await client.close()


async def test_a_wrong_address_stops_the_start(stage: Stage) -> None:
    wrong = stage.add_relay(env={"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}).start()
    assert await wrong.wait(60) == 2
    assert "OTEL_EXPORTER_OTLP_ENDPOINT='collector:4318'" in wrong.log()


WITHOUT = (
    "import sys; sys.modules['opentelemetry.sdk.trace'] = None; sys.argv[1:] = []; "
    "from relay.__main__ import main; main()"
)


async def test_without_the_extra_it_says_what_to_install(stage: Stage, collector: Collector) -> None:
    process = stage.processes.add(
        "without", [sys.executable, "-c", WITHOUT], env={**collector.env, "PYTHONPATH": str(ROOT)}
    ).start()
    assert await process.wait(60) == 2
    (line,) = process.log().strip().splitlines()
    assert "pip install 'bloasis-notification[tracing]'" in line


async def test_nothing_of_it_is_imported_when_it_is_off() -> None:
    code = "import relay.__main__ as m, sys; assert 'relay.tracing' not in sys.modules; assert m._tracing("
    code += "m.load(m.TracingSettings), m.load(m.ServiceSettings), m.load(m.KafkaSettings), 'me') is None;"
    code += "assert 'relay.tracing' not in sys.modules"
    async with Processes() as processes:
        process = processes.add("off", [sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT)}).start()
        assert await process.wait(60) == 0, process.log()
