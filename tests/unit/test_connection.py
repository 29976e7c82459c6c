"""One WebSocket: what is written to its socket, and when. The transport is scripted."""

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from scripted import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    ScriptedTransport,
    client_close,
    client_frame,
    close_of,
    server_frames,
)
from structlog.testing import capture_logs

from gateway.admission.admit import Admitted
from gateway.admission.handshake import PLAIN, Handshake
from gateway.admission.wishes import Asked
from gateway.close_codes import CloseCode
from gateway.connection import CLOSE_SECONDS, RESUME_BYTES, Connections
from gateway.frames import Variant, text_frame
from gateway.hub import Hub
from gateway.settings import ConnectionSettings
from gateway.stream import Meta
from gateway.turns import Turns
from gateway.websocket import WebSocket
from gateway.wheel import Wheel
from shared.keys import Keys

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 section 1.3
INTERVAL, TIMEOUT, JOIN_SECONDS = 25, 10, 5
SLOW_CLIENT_BYTES, MAX_BUFFERED_BYTES = 65_536, 1_048_576


class Replica:
    """As much of a replica as connections need; its streams are subscribed unless told otherwise."""

    def __init__(self, *, subscribed: bool = True, **settings: Any) -> None:
        defaults = {"slow_client_bytes": SLOW_CLIENT_BYTES, "max_buffered_bytes": MAX_BUFFERED_BYTES}
        self.wheel = Wheel()
        self.hub = Hub(Keys())
        nothing: Any = None  # nobody resumes here
        self.connections = Connections(
            ConnectionSettings(_env_file=None, **(defaults | settings)), self.hub, self.wheel, nothing, nothing
        )
        self.soon: list[Callable[[], None]] = []
        """What is to be called in the next turn of the loop."""
        self.connections.turns = Turns(self.soon.append)
        self.subscribed = subscribed
        self.transports: list[ScriptedTransport] = []

    def connect(
        self, user_id: str = "ann", *, types: frozenset[bytes] | None = None, subprotocol: bytes | None = None
    ) -> tuple[WebSocket, ScriptedTransport]:
        transport = ScriptedTransport()
        admitted = Admitted(Asked(user_id, types), Variant.PLAIN, Handshake(KEY, subprotocol))
        connection = WebSocket(self.connections, transport, admitted)
        transport.set_protocol(connection)
        self.transports.append(transport)
        connection.join()
        if self.subscribed:
            self.subscribe()
        return connection, transport

    def subscribe(self) -> None:
        for audience in self.hub.take_wanted(1_000):
            self.hub.joined(audience, Meta(), {})

    def open(self, user_id: str = "ann") -> tuple[WebSocket, ScriptedTransport]:
        """A connection whose 101 was read already."""
        connection, transport = self.connect(user_id)
        assert transport.take().startswith(b"HTTP/1.1 101")
        return connection, transport

    def tick(self, seconds: int) -> None:
        for _ in range(seconds):
            self.wheel.tick()

    def turn(self) -> None:
        """One turn of the loop."""
        due, self.soon[:] = self.soon[:], []
        for call in due:
            call()

    def all_turns(self) -> None:
        """As many as there is something to do in."""
        while self.soon:
            self.turn()

    def is_forgotten(self) -> bool:
        """Nothing is left of connections that are gone."""
        connections = self.connections
        counts = (connections.sockets, connections.joining, connections.held_bytes)
        return counts == (0, 0, 0) and not connections.open and not connections.holding


# The handshake's answer


def test_the_handshake_is_answered_once_the_streams_are_subscribed() -> None:
    replica = Replica(subscribed=False)
    _, transport = replica.connect()
    assert transport.take() == b""
    assert replica.connections.joining == 1
    replica.subscribe()
    head = transport.take()
    assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert head.endswith(b"\r\n\r\n")
    assert b"\r\nSec-WebSocket-Accept: " + ACCEPT + b"\r\n" in head
    assert b"Sec-WebSocket-Protocol" not in head
    assert replica.connections.joining == 0
    assert len(replica.connections.open) == 1
    assert replica.connections.handshakes == {101: 1}


def test_the_subprotocol_that_was_offered_is_answered() -> None:
    _, transport = Replica().connect(subprotocol=PLAIN)
    assert b"\r\nSec-WebSocket-Protocol: notify.plain\r\n" in transport.take()


def status_and_body(data: bytes) -> tuple[int, dict[str, Any], bytes]:
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(body), head


def test_a_handshake_that_waits_too_long_gets_503_with_a_time_to_come_back() -> None:
    replica = Replica(subscribed=False, join_seconds=JOIN_SECONDS)
    _, transport = replica.connect()
    replica.tick(JOIN_SECONDS)
    assert transport.take() == b""
    replica.tick(1)
    status, body, head = status_and_body(transport.take())
    assert status == 503
    assert body["error"] == "unavailable"
    assert b"\r\nRetry-After: " in head
    assert transport.is_closed
    assert replica.connections.joining == 0
    assert replica.connections.handshakes == {503: 1}
    transport.lose()
    assert replica.is_forgotten()


def test_a_client_of_our_subprotocol_is_told_the_same_by_a_close_code() -> None:
    replica = Replica(subscribed=False)
    _, transport = replica.connect(subprotocol=PLAIN)
    replica.tick(JOIN_SECONDS + 1)
    head, _, frames = transport.take().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101")
    code, reason = close_of(frames)
    assert code == CloseCode.UNAVAILABLE
    assert reason.startswith("unavailable retry_after_ms=")


def test_a_replica_that_goes_refuses_the_handshakes_that_wait() -> None:
    replica = Replica(subscribed=False)
    connection, transport = replica.connect()
    connection.close(CloseCode.SERVICE_RESTART)
    assert status_and_body(transport.take())[0] == 503
    replica.subscribe()
    assert transport.take() == b""
    assert not replica.connections.open


def test_frames_before_the_answer_are_refused() -> None:
    replica = Replica(subscribed=False)
    _, transport = replica.connect()
    transport.receive(client_frame(TEXT, b"early"))
    assert status_and_body(transport.take())[0] == 400
    assert transport.is_closed
    replica.subscribe()
    assert transport.take() == b""


def test_a_client_that_leaves_before_the_answer_is_forgotten() -> None:
    replica = Replica(subscribed=False)
    _, transport = replica.connect()
    transport.lose()
    assert replica.is_forgotten()
    replica.subscribe()
    assert transport.take() == b""


# Pings


def seconds_until_ping(replica: Replica, transport: ScriptedTransport) -> int:
    for seconds in range(1, 100):
        replica.tick(1)
        if written := transport.take():
            assert server_frames(written) == [(PING, b"")]
            return seconds
    raise AssertionError("no ping")


def test_the_first_pings_are_spread_over_the_interval() -> None:
    replica = Replica()
    firsts = {seconds_until_ping(replica, replica.open()[1]) for _ in range(60)}
    assert min(firsts) >= 1
    assert max(firsts) <= INTERVAL + 1
    assert len(firsts) > 5


@pytest.mark.parametrize("pong", [client_frame(PONG), client_frame(PONG, b"x"), client_frame(TEXT, b"here")])
def test_a_client_that_answers_is_asked_again_after_the_interval(pong: bytes) -> None:
    replica = Replica()
    _, transport = replica.open()
    seconds_until_ping(replica, transport)
    for _ in range(3):
        transport.receive(pong)
        # Two waits, each up to a second late.
        assert INTERVAL <= seconds_until_ping(replica, transport) <= INTERVAL + 2
    assert not transport.is_closed


def test_a_client_that_does_not_answer_is_closed_in_time() -> None:
    replica = Replica()
    _, transport = replica.open()
    seconds_until_ping(replica, transport)
    replica.tick(TIMEOUT)
    assert transport.take() == b""
    replica.tick(1)
    assert close_of(transport.take()) == (1011, "ping_timeout")
    assert replica.connections.closes == {1011: 1}
    replica.tick(CLOSE_SECONDS + 1)
    assert transport.is_aborted


def test_what_came_before_a_ping_is_no_answer_to_it() -> None:
    replica = Replica()
    _, transport = replica.open()
    transport.receive(client_frame(PONG))
    seconds_until_ping(replica, transport)
    replica.tick(TIMEOUT + 1)
    assert close_of(transport.take())[0] == 1011


def test_a_client_that_reads_slowly_but_reads_is_not_closed_for_its_pong() -> None:
    replica = Replica()
    connection, transport = replica.open()
    connection.pause_writing()
    while not connection.held_bytes:
        replica.tick(1)
    connection.resume_writing()
    assert server_frames(transport.take()) == [(PING, b"")]
    replica.tick(TIMEOUT + 1)
    assert transport.take() == b""


def test_a_client_that_reads_nothing_for_the_time_of_a_pong_is_a_slow_one() -> None:
    replica = Replica()
    connection, transport = replica.open()
    connection.pause_writing()
    replica.tick(INTERVAL + 1 + TIMEOUT + 1)
    assert close_of(transport.take())[0] == CloseCode.SLOW_CONSUMER


def test_what_a_user_may_ask_about_is_logged_and_what_a_client_does_wrong_is_not() -> None:
    replica = Replica()
    with capture_logs() as logged:
        for code in CloseCode:
            replica.open("ann ké")[0].close(code)
    assert {line["reason"] for line in logged} == {
        "slow_consumer", "token_expired", "gap", "unavailable", "unauthorized", "disconnected_by_admin", "replaced"
    }  # fmt: skip
    assert {(line["event"], line["user"]) for line in logged} == {("a connection was closed", "ann ké")}
    assert len({line["connection"] for line in logged}) == len(logged)


@pytest.mark.parametrize(("interval", "timeout"), [(1, 1), (1, 60), (60, 1), (60, 60)])
def test_any_settings_of_the_pings_work(interval: int, timeout: int) -> None:
    replica = Replica(ping_interval_seconds=interval, ping_timeout_seconds=timeout)
    _, transport = replica.open()
    for _ in range(4):
        seconds_until_ping(replica, transport)
        transport.receive(client_frame(PONG))
    replica.tick(200)
    assert close_of(transport.take())[0] == 1011


# Flow control


def test_while_the_socket_takes_it_what_is_written_goes_straight_out() -> None:
    connection, transport = Replica().open()
    connection.write(b"one")
    connection.write(b"two")
    assert (transport.take(), transport.writes) == (b"onetwo", 3)


def test_frames_are_held_while_the_socket_is_full_and_go_out_joined() -> None:
    replica = Replica()
    connection, transport = replica.open()
    connection.pause_writing()
    connection.write(b"one")
    connection.write(b"two")
    assert transport.take() == b""
    assert replica.connections.held_bytes == connection.held_bytes == 6
    writes = transport.writes
    connection.resume_writing()
    assert transport.take() == b"onetwo"
    assert transport.writes == writes + 1
    assert replica.connections.held_bytes == 0
    connection.write(b"three")
    assert transport.take() == b"three"


def test_a_socket_that_is_full_again_at_once_holds_again() -> None:
    replica = Replica()
    connection, transport = replica.open()
    connection.pause_writing()
    connection.write(b"one")
    write = transport.write

    def write_and_be_full(data: bytes) -> None:
        write(data)
        connection.pause_writing()

    transport.write = write_and_be_full  # type: ignore[method-assign]
    connection.resume_writing()
    connection.write(b"two")
    assert transport.take() == b"one"
    assert replica.connections.held_bytes == 3


def test_what_was_held_is_not_written_to_a_socket_that_resumes_without_it() -> None:
    connection, transport = Replica().open()
    writes = transport.writes
    connection.pause_writing()
    connection.resume_writing()
    assert transport.writes == writes


def test_a_client_may_be_owed_so_much_and_no_more() -> None:
    replica = Replica()
    connection, transport = replica.open()
    connection.pause_writing()
    for _ in range(SLOW_CLIENT_BYTES // 1_024):
        connection.write(b"x" * 1_024)
    assert transport.take() == b""
    connection.write(b"x")
    assert close_of(transport.take()) == (4000, "slow_consumer")
    assert replica.connections.held_bytes == 0
    connection.resume_writing()
    connection.write(b"late")
    assert transport.take() == b""
    replica.tick(CLOSE_SECONDS + 1)
    assert transport.is_aborted


def test_a_client_that_resumes_for_a_moment_is_still_counted() -> None:
    replica = Replica(slow_client_bytes=1_000_000)
    connection, transport = replica.open()
    connection.pause_writing()
    for _ in range(900):
        connection.write(b"x" * 1_000)
    taken: list[bytes] = []

    def take_once(data: bytes) -> None:
        taken.append(data)
        connection.pause_writing()

    transport.write = take_once  # type: ignore[method-assign]
    connection.resume_writing()
    (part,) = taken
    assert len(part) <= RESUME_BYTES
    assert connection.held_bytes == replica.connections.held_bytes == 900_000 - len(part)
    connection.write(b"last")
    while connection.held_bytes:
        connection.resume_writing()
    assert b"".join(taken) == b"x" * 900_000 + b"last"


def test_when_all_together_are_owed_too_much_the_largest_go_first() -> None:
    replica = Replica(slow_client_bytes=600_000)
    small, small_transport = replica.open("small")
    large, large_transport = replica.open("large")
    last, last_transport = replica.open("last")
    for connection, size in ((small, 100_000), (large, 550_000), (last, 398_576)):
        connection.pause_writing()
        connection.write(b"x" * size)
    assert replica.connections.held_bytes == MAX_BUFFERED_BYTES
    small.write(b"x")
    assert close_of(large_transport.take())[0] == CloseCode.SLOW_CONSUMER
    assert small_transport.take() == last_transport.take() == b""
    assert replica.connections.held_bytes == 498_577
    assert replica.connections.holding == {small, last}


def test_the_one_that_writes_may_be_the_largest_itself() -> None:
    replica = Replica(slow_client_bytes=MAX_BUFFERED_BYTES)
    connection, transport = replica.open()
    connection.pause_writing()
    connection.write(b"x" * (MAX_BUFFERED_BYTES - 1))
    other, _ = replica.open("other")
    other.pause_writing()
    other.write(b"x")
    connection.write(b"x")
    assert close_of(transport.take())[0] == CloseCode.SLOW_CONSUMER
    assert replica.connections.held_bytes == 1


def test_one_that_is_held_for_until_its_replay_is_over_may_be_the_largest() -> None:
    replica = Replica(slow_client_bytes=MAX_BUFFERED_BYTES)
    connection, transport = replica.open()
    connection.hold()  # as a replay does that has come to the present
    connection.write(b"x" * (MAX_BUFFERED_BYTES - 1))
    other, other_transport = replica.open("other")
    other.pause_writing()
    other.write(b"xx")
    assert close_of(transport.take())[0] == CloseCode.SLOW_CONSUMER
    assert other_transport.take() == b""
    assert replica.connections.held_bytes == 2


# The end


def test_our_close_waits_for_the_clients_and_then_closes_the_socket() -> None:
    replica = Replica()
    connection, transport = replica.open()
    connection.close(CloseCode.SERVICE_RESTART)
    assert close_of(transport.take()) == (1012, "service_restart")
    assert not transport.is_closed
    assert not replica.connections.open
    transport.receive(client_close(1012))
    assert transport.take() == b""
    assert transport.is_closed
    assert not transport.is_aborted
    transport.lose()
    assert replica.is_forgotten()
    assert replica.connections.closes == {1012: 1}


def test_a_client_that_does_not_answer_our_close_is_cut_off() -> None:
    replica = Replica()
    connection, transport = replica.open()
    connection.close(CloseCode.SERVICE_RESTART)
    replica.tick(CLOSE_SECONDS)
    transport.receive(client_frame(TEXT, b"still here") + client_frame(PING))
    assert not transport.is_closed
    assert close_of(transport.take())[0] == 1012
    replica.tick(1)
    assert transport.is_aborted


def test_a_second_close_is_not_said() -> None:
    replica = Replica()
    connection, transport = replica.open()
    connection.close(CloseCode.GAP)
    connection.close(CloseCode.SERVICE_RESTART)
    assert server_frames(transport.take()) == [(CLOSE, b"\x0f\xa3gap")]
    assert replica.connections.closes == {4003: 1}


@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x03\xe8bye"])
def test_a_clients_close_is_echoed_and_the_socket_closed(payload: bytes) -> None:
    replica = Replica()
    connection, transport = replica.open()
    transport.receive(client_frame(CLOSE, payload))
    assert server_frames(transport.take()) == [(CLOSE, payload)]
    assert transport.is_closed
    connection.write(b"late")
    transport.lose()
    assert replica.is_forgotten()
    assert replica.connections.closes == {}  # it was not us


def test_an_echo_that_does_not_leave_the_socket_is_cut_off() -> None:
    replica = Replica()
    _, transport = replica.open()
    transport.receive(client_close())
    assert not transport.is_aborted
    replica.tick(CLOSE_SECONDS + 1)
    assert transport.is_aborted


def test_a_close_frame_goes_out_after_what_the_socket_has_and_instead_of_what_is_held() -> None:
    connection, transport = Replica().open()
    connection.write(text_frame(b"sent"))
    connection.pause_writing()
    connection.write(text_frame(b"held"))
    connection.close(CloseCode.SERVICE_RESTART)
    assert [payload for _, payload in server_frames(transport.take())] == [b"sent", b"\x03\xf4service_restart"]


def test_a_connection_that_is_gone_is_on_no_list() -> None:
    replica = Replica()
    connection, transport = replica.open()
    connection.pause_writing()
    connection.write(b"held")
    transport.lose()
    assert replica.is_forgotten()
    connection.write(b"late")
    replica.tick(200)


def test_the_end_of_the_clients_stream_closes_the_socket() -> None:
    connection, _ = Replica().open()
    assert not connection.eof_received()  # asyncio: None closes the transport


# What comes in


def test_text_from_a_plain_client_is_ignored() -> None:
    _, transport = Replica().open()
    transport.receive(client_frame(TEXT, b"hello") * 50)
    assert transport.take() == b""
    assert not transport.is_closed


def test_a_ping_is_answered() -> None:
    _, transport = Replica().open()
    transport.receive(client_frame(PING, b"are you there"))
    assert server_frames(transport.take()) == [(PONG, b"are you there")]


def test_an_answer_to_a_ping_takes_its_turn_among_what_is_held() -> None:
    connection, transport = Replica().open()
    connection.pause_writing()
    connection.write(text_frame(b"held"))
    transport.receive(client_frame(PING, b"?"))
    assert transport.take() == b""
    connection.resume_writing()
    assert server_frames(transport.take()) == [(TEXT, b"held"), (PONG, b"?")]


def test_a_pong_costs_no_parser() -> None:
    connection, transport = Replica().open()
    transport.receive(client_frame(PONG))
    assert connection._inbound is None
    transport.receive(client_frame(TEXT, b"now"))
    assert connection._inbound is not None
    transport.receive(client_frame(PONG)[:3])
    transport.receive(client_frame(PONG)[3:] + client_frame(PING))
    assert server_frames(transport.take()) == [(PONG, b"")]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (client_frame(BINARY, b"x"), 1003),
        (client_frame(TEXT, b"\xff"), 1007),
        (client_frame(TEXT, b"x" * 4_097), 1009),
        (client_frame(TEXT, b"", length=2**62), 1009),
        (client_frame(TEXT, b"x", mask=None), 1002),
        (client_frame(TEXT, b"x", reserved=4), 1002),
        (client_frame(0x3), 1002),
        (client_frame(TEXT, b"x", fin=False) + client_frame(CONTINUATION, b"", fin=False) * 32, 1009),
        (client_frame(TEXT) * 101, 4002),
        (client_frame(PING) * 101, 4002),
    ],
    ids=["binary", "utf-8", "large", "huge", "unmasked", "reserved", "opcode", "fragments", "texts", "pings"],
)
def test_an_offence_is_answered_with_its_code_and_time_to_read_it(data: bytes, code: int) -> None:
    replica = Replica()
    _, transport = replica.open()
    transport.receive(data)
    replica.all_turns()
    assert close_of(transport.take())[0] == code
    assert replica.connections.closes == {code: 1}
    assert not transport.is_closed
    transport.receive(b"and more")
    assert transport.take() == b""
    assert not transport.is_paused
    transport.receive(b"and more" * 10_000)
    assert transport.take() == b""
    assert transport.is_paused, "who goes on at full speed is read no more"
    replica.tick(CLOSE_SECONDS + 1)
    assert transport.is_aborted
    transport.lose()
    assert replica.is_forgotten()


def test_the_rate_of_frames_is_measured_by_the_replicas_clock() -> None:
    replica = Replica(client_frames_per_second=2)
    _, transport = replica.open()
    for _ in range(30):
        transport.receive(client_frame(TEXT) * 2)
        replica.turn()
        replica.wheel.second += 1
    assert transport.take() == b""
    transport.receive(client_frame(TEXT) * 11)
    assert close_of(transport.take())[0] == CloseCode.TOO_MANY_MESSAGES


CONVERSATION = (
    client_frame(PONG)
    + client_frame(TEXT, b"a" * 200)
    + client_frame(PONG)
    + client_frame(PING, b"1")
    + client_frame(TEXT, b"\xc3", fin=False)
    + client_frame(PING, b"2")
    + client_frame(CONTINUATION, b"\xa9")
    + client_close(1000, b"bye")
)


@given(st.lists(st.integers(0, len(CONVERSATION)), max_size=20))
def test_bytes_split_anywhere_are_answered_the_same(cuts: list[int]) -> None:
    _, transport = Replica().open()
    bounds = [0, *sorted(cuts), len(CONVERSATION)]
    for start, end in pairwise(bounds):
        transport.receive(CONVERSATION[start:end])
    assert server_frames(transport.take()) == [(PONG, b"1"), (PONG, b"2"), (CLOSE, b"\x03\xe8bye")]
    assert transport.is_closed


# Whatever happens, in whatever order


class Life(RuleBasedStateMachine):
    """Connections that do anything allowed, with the bookkeeping checked after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.replica = Replica(subscribed=False, slow_client_bytes=400_000)
        self.all: list[tuple[WebSocket, ScriptedTransport]] = []

    def pick(self, number: int) -> tuple[WebSocket, ScriptedTransport]:
        return self.all[number % len(self.all)]

    @rule(user=st.sampled_from(["ann", "bob"]), subprotocol=st.sampled_from([None, PLAIN]))
    def connect(self, user: str, subprotocol: bytes | None) -> None:
        self.all.append(self.replica.connect(user, subprotocol=subprotocol))

    @rule()
    def subscribe(self) -> None:
        self.replica.subscribe()

    @precondition(lambda self: self.all)
    @rule(number=st.integers(0, 7))
    def pause(self, number: int) -> None:
        connection, transport = self.pick(number)
        if not transport.is_lost and connection not in self.replica.connections.holding:
            connection.pause_writing()

    @precondition(lambda self: self.all)
    @rule(number=st.integers(0, 7))
    def resume(self, number: int) -> None:
        connection, transport = self.pick(number)
        if not transport.is_lost and not transport.is_closed:
            connection.resume_writing()

    @precondition(lambda self: self.all)
    @rule(number=st.integers(0, 7), size=st.sampled_from([1, 1_000, 150_000, 399_999]))
    def push(self, number: int, size: int) -> None:
        self.pick(number)[0].write(b"x" * size)

    @precondition(lambda self: self.all)
    @rule(
        number=st.integers(0, 7),
        data=st.sampled_from(
            [
                client_frame(PONG),
                client_frame(PING),
                client_frame(PING) * 60,
                client_frame(TEXT, b"x"),
                client_frame(TEXT, b"x") * 40 + client_close(),
                client_close(),
                b"\xff\xff\xff",
            ]
        ),
    )
    def receive(self, number: int, data: bytes) -> None:
        self.pick(number)[1].receive(data)

    @precondition(lambda self: self.all)
    @rule(number=st.integers(0, 7), code=st.sampled_from([CloseCode.GAP, CloseCode.SERVICE_RESTART]))
    def close(self, number: int, code: CloseCode) -> None:
        connection, transport = self.pick(number)
        if not transport.is_lost:
            connection.close(code)

    @precondition(lambda self: self.all)
    @rule(number=st.integers(0, 7))
    def lose(self, number: int) -> None:
        self.pick(number)[1].lose()

    @rule()
    def turn(self) -> None:
        self.replica.turn()

    @rule(seconds=st.sampled_from([1, 3, 12, 30]))
    def tick(self, seconds: int) -> None:
        self.replica.tick(seconds)

    @invariant()
    def counts_are_right(self) -> None:
        connections = self.replica.connections
        assert connections.held_bytes == sum(connection.held_bytes for connection, _ in self.all)
        assert connections.held_bytes == sum(connection.held_bytes for connection in connections.holding)
        assert connections.held_bytes <= MAX_BUFFERED_BYTES
        assert all(connection.held_bytes <= 400_000 for connection, _ in self.all)
        assert connections.sockets == sum(not transport.is_lost for _, transport in self.all)
        assert 0 <= connections.joining <= connections.sockets
        members = {member for audience in self.replica.hub.audiences for member in audience.everyone()}
        assert members == connections.open
        assert connections.holding <= connections.open | {c for c, t in self.all if not t.is_closed}

    def teardown(self) -> None:
        for _, transport in self.all:
            transport.lose()
        assert self.replica.is_forgotten()
        self.replica.all_turns()
        self.replica.tick(100)


TestLife = Life.TestCase
