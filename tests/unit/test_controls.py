"""Control messages of many clients at once take turns."""

import asyncio
import json

from scripted import CLOSE, PING, PONG, TEXT, ScriptedTransport, client_close, client_frame, server_frames
from test_connection import Replica

from gateway.close_codes import CloseCode
from gateway.controls import A_TURN, Controls
from gateway.frames import Variant
from gateway.group import Wishes


class Talker:
    def __init__(self, name: str, says: int, heard: list[str]) -> None:
        self._name, self._left, self._heard = name, says, heard

    def hear_next(self) -> bool:
        self._heard.append(self._name)
        self._left -= 1
        return self._left > 0


async def test_one_message_of_each_in_its_turn_and_so_many_in_a_turn_of_the_loop() -> None:
    controls, heard = Controls(), list[str]()
    controls.add(Talker("a", 100, heard))
    controls.add(Talker("b", 2, heard))
    assert heard == []
    await asyncio.sleep(0)
    assert heard == ["a", "b", "a", "b", *["a"] * (A_TURN - 4)]
    controls.add(Talker("c", 1, heard))
    await asyncio.sleep(0)
    assert heard.count("c") == 1
    for _ in range(103 // A_TURN):
        await asyncio.sleep(0)
    assert len(heard) == 103


def connect(replica: Replica) -> ScriptedTransport:
    connection, transport = replica.connect(subprotocol=b"notify.v1")
    replica.hub.change_wishes(connection, Wishes(Variant.V1, None))
    transport.take()
    return transport


def told(transport: ScriptedTransport) -> list[str]:
    """The control frames, and the opcodes of the other frames."""
    return [
        json.loads(payload)["control"] if opcode == TEXT else str(opcode)
        for opcode, payload in server_frames(transport.take())
    ]


SAYS_PING = client_frame(TEXT, b'{"control":"ping"}')


async def test_several_messages_of_a_client_are_answered_in_order_and_what_follows_them_after() -> None:
    transport = connect(Replica())
    transport.receive(SAYS_PING + client_frame(PING) + client_frame(TEXT, b"x") + SAYS_PING)
    assert transport.is_paused
    assert told(transport) == []
    await asyncio.sleep(0)
    assert told(transport) == ["pong", "error", "pong", str(PONG)]
    assert not transport.is_paused
    transport.receive(SAYS_PING)
    assert told(transport) == ["pong"], "one alone is answered at once"


async def test_what_a_client_says_before_it_closes_is_heard() -> None:
    replica = Replica()
    transport = connect(replica)
    transport.receive(SAYS_PING * 3 + client_close())
    await asyncio.sleep(0)
    assert told(transport) == ["pong", "pong", "pong", str(CLOSE)]
    assert transport.is_closed
    transport.lose()
    assert replica.is_forgotten()


async def test_an_offence_takes_its_turn_too() -> None:
    replica = Replica()
    transport = connect(replica)
    transport.receive(SAYS_PING * 1_000)
    for _ in range(100):
        await asyncio.sleep(0)
    assert told(transport) == ["pong"] * 100 + [str(CLOSE)]
    assert replica.connections.closes == {4002: 1}


async def test_a_client_that_goes_while_it_waits_is_forgotten() -> None:
    replica = Replica()
    for goes in (ScriptedTransport.lose, lambda transport: transport.protocol.close(CloseCode.SERVICE_RESTART)):
        transport = connect(replica)
        transport.receive(SAYS_PING * 3)
        goes(transport)
        await asyncio.sleep(0)
        assert "pong" not in told(transport)
        assert not transport.is_paused
        transport.lose()
    assert replica.is_forgotten()
