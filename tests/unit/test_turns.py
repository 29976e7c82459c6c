"""What many clients say at once is read and obeyed in turns."""

import asyncio
import json
from collections.abc import Callable

import pytest
from scripted import CLOSE, PING, PONG, TEXT, ScriptedTransport, client_close, client_frame, server_frames
from test_connection import Replica
from websockets.protocol import Protocol

from gateway.close_codes import CloseCode
from gateway.frames import Variant
from gateway.group import Wishes
from gateway.inbound import SLICE_BYTES
from gateway.turns import A_TURN, Turns

MOST_AT_ONCE = SLICE_BYTES // 6 + 1
"""Frames of a slice; only so many more than A_TURN may be parsed in a turn."""


class Talker:
    def __init__(self, name: str, says: int, heard: list[str], *, at_once: int = 1) -> None:
        self._name, self._left, self._heard, self._at_once = name, says, heard, at_once
        self.listens = 0

    def go_on(self) -> tuple[int, bool]:
        self._heard.append(self._name)
        self._left -= 1
        return self._at_once, self._left > 0

    def listen(self) -> None:
        self.listens += 1


async def test_what_a_turn_has_room_for_is_done_at_once_and_the_rest_one_part_of_each_in_its_turn() -> None:
    turns, heard = Turns(), list[str]()
    a, b = Talker("a", A_TURN + 36, heard), Talker("b", 2, heard)
    assert not turns.begin(a)
    assert heard == ["a"] * A_TURN
    assert not turns.begin(b)
    assert len(heard) == A_TURN
    await asyncio.sleep(0)
    assert heard[A_TURN:] == ["a", "b", "a", "b", *["a"] * 34]
    assert (a.listens, b.listens) == (1, 1)
    assert turns.begin(Talker("c", 1, heard))
    assert heard[-1] == "c"
    await asyncio.sleep(0)
    assert turns.begin(Talker("d", A_TURN - 1, heard)), "the next turn has room for as much"


async def test_a_part_counts_for_what_it_was() -> None:
    turns, heard = Turns(), list[str]()
    talkers = [Talker(str(number), 4, heard, at_once=A_TURN // 3) for number in range(10)]
    assert [turns.begin(talker) for talker in talkers] == [False] * 10
    assert heard == ["0", "0", "0"]
    await asyncio.sleep(0)
    assert heard[3:] == ["0", "1", "2"]


def test_what_comes_alone_asks_for_few_turns() -> None:
    asked: list[Callable[[], None]] = []
    turns, heard = Turns(asked.append), list[str]()
    for number in range(1, 1_000):
        assert turns.begin(Talker("a", 1, heard))
        assert len(heard) == number
        if len(asked) == 1:
            asked.pop()()
        assert not asked
    for _ in range(A_TURN // 2):
        turns.begin(Talker("a", 1, heard))
    assert len(asked) == 1


def test_a_client_that_fails_does_not_keep_the_others_from_their_turns() -> None:
    class Failing(Talker):
        def go_on(self) -> tuple[int, bool]:
            if self._heard.count("a") > A_TURN:
                raise RuntimeError
            return super().go_on()

    asked: list[Callable[[], None]] = []
    turns, heard = Turns(asked.append), list[str]()
    turns.begin(Talker("a", A_TURN + 2, heard))
    turns.begin(Failing("failing", 1, heard))
    turns.begin(other := Talker("b", 2, heard))
    with pytest.raises(RuntimeError):
        asked.pop()()
    while asked:
        asked.pop()()
    assert other.listens == 1


# Of a replica


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many frames were parsed since it was called last."""
    count = [0]
    receive = Protocol.recv_frame

    def counted(protocol: Protocol, frame: object) -> None:
        count[0] += 1
        receive(protocol, frame)  # type: ignore[arg-type]

    def since() -> int:
        was, count[0] = count[0], 0
        return was

    monkeypatch.setattr(Protocol, "recv_frame", counted)
    return since


@pytest.mark.parametrize("clients", [1, 64, 500])
@pytest.mark.parametrize("subprotocol", [None, b"notify.v1"])
@pytest.mark.parametrize(
    "says",
    [
        client_frame(PING) * 100,
        client_frame(PING) * 5_000,
        client_frame(TEXT, b"x" * 300, fin=False) + client_frame(0, fin=False) * 5_000,
        client_frame(TEXT) * 5_000,
        client_frame(PING),
    ],
    ids=["as many as may be", "pings", "continuations", "messages", "one ping of each"],
)
def test_one_turn_parses_no_more_however_many_say_how_much(
    parsed: Callable[[], int], clients: int, subprotocol: bytes | None, says: bytes
) -> None:
    replica = Replica()
    transports = [connect(replica, subprotocol) for _ in range(clients)]
    for transport in transports:
        transport.receive(says)
    assert 0 < parsed() < A_TURN + MOST_AT_ONCE
    total = 0
    while replica.soon:
        replica.turn()
        total += (now := parsed())
        assert now < A_TURN + MOST_AT_ONCE
    assert total <= clients * (100 + MOST_AT_ONCE), "a flood is parsed until it is one, and no further"
    said = [told(transport) for transport in transports]
    assert said == [said[0]] * clients
    assert said[0]
    assert not any(transport.is_paused for transport in transports)


def connect(replica: Replica, subprotocol: bytes | None = b"notify.v1") -> ScriptedTransport:
    connection, transport = replica.connect(subprotocol=subprotocol)
    if subprotocol is not None:
        replica.hub.change_wishes(connection, Wishes(Variant.V1, None))
    transport.take()
    return transport


def told(transport: ScriptedTransport) -> list[str]:
    """The control frames, and the opcodes of the other frames."""
    return [
        json.loads(payload)["control"] if opcode == TEXT else str(opcode)
        for opcode, payload in server_frames(transport.take())
    ]


def busy() -> Replica:
    """One whose turn is spent, so that whoever says something waits."""
    replica = Replica()
    connect(replica).receive(client_frame(PONG) * A_TURN)
    return replica


SAYS_PING = client_frame(TEXT, b'{"control":"ping"}')


def test_one_alone_is_answered_at_once() -> None:
    replica = Replica()
    for _ in range(10):
        transport = connect(replica)
        for says, answer in ((SAYS_PING, "pong"), (client_frame(PING), str(PONG))):
            transport.receive(says)
            assert told(transport) == [answer]
        assert not transport.is_paused
    assert len(replica.soon) <= 1


def test_what_is_said_is_answered_in_order_and_frames_after_the_messages_of_a_slice() -> None:
    replica = busy()
    transport = connect(replica)
    transport.receive(SAYS_PING + client_frame(PING) + client_frame(TEXT, b"x") + SAYS_PING)
    assert transport.is_paused
    assert told(transport) == []
    replica.all_turns()
    assert told(transport) == ["pong", "error", "pong", str(PONG)]
    assert not transport.is_paused
    long = client_frame(TEXT, b"x" * SLICE_BYTES)
    transport.receive(client_frame(PING) + long + client_frame(PING) * 20 + long + client_frame(PING))
    replica.all_turns()
    assert told(transport) == [str(PONG), "error", *[str(PONG)] * 20, "error", str(PONG)]


@pytest.mark.parametrize("count", [3, 90])
@pytest.mark.parametrize("make", [Replica, busy])
def test_what_a_client_says_before_it_closes_is_heard(make: Callable[[], Replica], count: int) -> None:
    replica = make()
    transport = connect(replica)
    transport.receive(SAYS_PING * count + client_close() + SAYS_PING * 100)
    replica.all_turns()
    assert told(transport) == ["pong"] * count + [str(CLOSE)]
    assert transport.is_closed


def test_an_offence_takes_its_turn_too_and_what_is_behind_it_is_not_parsed(parsed: Callable[[], int]) -> None:
    replica = Replica()
    transport = connect(replica)
    transport.receive(SAYS_PING * 100 + client_frame(PING) * 5_000)
    replica.all_turns()
    assert told(transport) == ["pong"] * 100 + [str(CLOSE)]
    assert replica.connections.closes == {4002: 1}
    assert parsed() < 100 + MOST_AT_ONCE
    assert not transport.is_paused, "our close may be answered"
    transport.receive(client_frame(PING) * 600)
    assert parsed() == 0


def test_a_client_that_is_closed_while_it_waits_is_heard_no_more_but_its_own_close_is_seen() -> None:
    for answer, is_closed in ((client_close(), True), (b"", False)):
        replica = busy()
        transport = connect(replica)
        transport.receive(SAYS_PING * 30 + client_frame(PING) * 30 + answer)
        transport.protocol.close(CloseCode.SERVICE_RESTART)
        replica.all_turns()
        assert told(transport) == [str(CLOSE)]
        assert (transport.is_closed, transport.is_paused) == (is_closed, False)


def test_a_client_that_is_closed_between_two_of_its_messages_is_heard_no_more() -> None:
    replica = busy()
    transport = connect(replica)
    transport.receive(SAYS_PING * 95)
    replica.turn()
    heard = told(transport)
    transport.protocol.close(CloseCode.SERVICE_RESTART)
    replica.all_turns()
    assert 0 < len(heard) < 95
    assert told(transport) == [str(CLOSE)]


def test_a_client_that_goes_while_it_waits_is_forgotten(parsed: Callable[[], int]) -> None:
    replica = busy()
    transports = [connect(replica) for _ in range(10)]
    for transport in transports:
        transport.receive(SAYS_PING * 50 + client_close())
    replica.turn()
    assert parsed() > 0
    for transport in [*transports, *replica.transports]:
        transport.lose()
    replica.all_turns()
    assert parsed() == 0
    assert replica.is_forgotten()
    transport = connect(replica)
    transport.receive(SAYS_PING)
    assert told(transport) == ["pong"]
