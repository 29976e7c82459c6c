"""One event stream on a scripted socket (HTML section 9.2)."""

import asyncio

from clients import Office
from scripted import ScriptedTransport

from gateway.admission.wishes import Asked
from gateway.close_codes import CloseCode
from gateway.frames import Variant

ANN = Asked("ann")


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def blocks(data: bytes) -> list[list[str]]:
    """What is written, in events: the lines between empty ones."""
    return [block.split("\n") for block in data.decode().split("\n\n") if block]


def opened(office: Office) -> ScriptedTransport:
    transport = office.connect(ANN, Variant.EVENTS)
    head, _, body = transport.take().partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 200 OK"
    assert "Content-Type: text/event-stream" in lines
    assert "Cache-Control: no-store" in lines
    assert "X-Accel-Buffering: no" in lines
    assert blocks(body) == [["retry: 2000"], ["id: 0.0.0.0"]]
    return transport


async def test_an_event_says_where_it_is_from_and_has_the_cursor_behind_it() -> None:
    office = Office()
    transport = opened(office)
    office.publish("ann", "order_executed", b'{"qty":"1"}')
    office.publish(None, "regime_change")
    office.publish("ann", "risk_alert")
    await turn()
    written = blocks(transport.take())
    assert written == [
        [
            "event: order_executed",
            'data: {"type":"order_executed","data":{"qty":"1"},"id":"risk-events/0/1","ts":7}',
            "id: 0.0.a.1",
        ],
        ["event: risk_alert", 'data: {"type":"risk_alert","data":{},"id":"risk-events/0/2","ts":7}', "id: 0.0.a.2"],
        [
            "event: regime_change",
            'data: {"type":"regime_change","data":{},"id":"risk-events/0/1","ts":7}',
            "id: a.1.a.2",
        ],
    ]


async def test_a_heartbeat_is_a_comment_and_moves_the_cursor_over_what_was_not_wanted() -> None:
    office = Office()
    transport = office.connect(Asked("ann", frozenset((b"risk_alert",))), Variant.EVENTS)
    transport.take()
    office.publish("ann", "order_executed")
    await turn()
    assert transport.take() == b""
    office.tick(15)
    assert blocks(transport.take()) == [[": heartbeat", "id: 0.0.a.1"]]
    office.hub.is_fed = lambda: False
    office.tick(15)
    assert blocks(transport.take()) == [[": heartbeat"]]


async def test_the_end_is_a_control_event_and_the_socket_closes() -> None:
    office = Office()
    transport = opened(office)
    (connection,) = office.connections.open
    connection.going_away(2_000)
    connection.close(CloseCode.SERVICE_RESTART)
    assert blocks(transport.take()) == [
        ["event: control", 'data: {"control":"going_away","retry_after_ms":2000}'],
        ["event: control", 'data: {"control":"error","code":"service_restart","message":"service_restart"}'],
    ]
    assert transport.is_closed


async def test_what_a_client_sends_meets_a_bound() -> None:
    transport = opened(Office())
    transport.receive(b"x" * 10_000)
    assert not transport.is_closed
    transport.receive(b"x" * 10_000)
    assert transport.is_aborted


async def test_one_that_is_not_to_come_again_is_asked_to_wait_for_a_day() -> None:
    """A browser comes again by itself. With each of its own replaced by the next, it would never end."""
    office = Office()
    transport = opened(office)
    next(iter(office.connections.open)).close(CloseCode.REPLACED)
    assert blocks(transport.take()) == [
        ["retry: 86400000"],
        ["event: control", 'data: {"control":"error","code":"replaced","message":"replaced"}'],
    ]
