"""Straight into the kernel, in order with what waits in the transport, on both event loops."""

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from scripted import ScriptedTransport

from gateway.outlet import Outlet

LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop, uvloop.new_event_loop]


class Owner(asyncio.Protocol):
    """Notes what its transport says, and whether the socket is open still when it is told that it is lost."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.fd = -1

    def pause_writing(self) -> None:
        self.said.append("pause")

    def resume_writing(self) -> None:
        self.said.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        os.fstat(self.fd)  # raises when the number is nobody's any more
        self.said.append("lost")


async def a_pair() -> tuple[Owner, asyncio.Transport, socket.socket]:
    ours, theirs = socket.socketpair()
    for one in (ours, theirs):
        one.setblocking(False)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
    transport, owner = await asyncio.get_running_loop().create_connection(Owner, sock=ours)
    owner.fd = transport.get_extra_info("socket").fileno()
    return owner, transport, theirs


@pytest.mark.parametrize("new_loop", LOOPS)
def test_all_comes_in_order_whatever_the_socket_takes(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def test() -> None:
        owner, transport, theirs = await a_pair()
        outlet = Outlet(transport)
        sent, received = bytearray(), bytearray()
        for number in range(300):
            data = bytes([number % 251]) * (1 + number * 97 % 3_000)
            outlet.write(data)
            sent += data
            if number % 10 == 0:  # sometimes it is read faster than it is written
                received += await asyncio.get_running_loop().sock_recv(theirs, 4_500)
        assert "pause" in owner.said
        while len(received) < len(sent):
            received += await asyncio.get_running_loop().sock_recv(theirs, 65_536)
        assert received == sent
        assert owner.said[-1] == "resume"
        # And straight again, once nothing waits: it is there before the loop has turned.
        for _ in range(2):
            outlet.write(b"at once")
            assert theirs.recv(100) == b"at once"
        transport.close()
        await asyncio.sleep(0.01)
        theirs.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(test())


@pytest.mark.parametrize("new_loop", LOOPS)
@pytest.mark.parametrize("how", ["abort", "close", "reset", "goes"])
def test_the_socket_is_ours_until_we_are_told_that_it_is_lost(
    new_loop: Callable[[], asyncio.AbstractEventLoop], how: str
) -> None:
    """Both loops close it after `connection_lost`: until then its number cannot be another client's."""

    async def test() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        transport, owner = await loop.create_connection(Owner, *listener.getsockname())
        theirs, _ = await loop.sock_accept(listener)
        owner.fd = transport.get_extra_info("socket").fileno()
        outlet = Outlet(transport)
        outlet.write(b"hello")
        if how == "abort":
            transport.abort()
        elif how == "close":
            transport.close()
        else:
            if how == "reset":
                theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            theirs.close()
        deadline = loop.time() + 30
        while "lost" not in owner.said and loop.time() < deadline:
            outlet.write(b"x" * 100)  # never raises, though nobody reads
            await asyncio.sleep(0.001)
        assert owner.said[-1] == "lost"
        outlet.close()
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(owner.fd)
        theirs.close()
        listener.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(test())


def test_tls_and_what_is_no_socket_go_through_their_transport() -> None:
    with socket.socket() as raw:

        class Tls(ScriptedTransport):
            def get_extra_info(self, name: str, default: Any = None) -> Any:
                return {"sslcontext": object(), "socket": raw}.get(name, default)

        for transport in (ScriptedTransport(("127.0.0.1", 1)), Tls(("127.0.0.1", 1))):
            Outlet(transport).write(b"through it")
            assert transport.take() == b"through it"


def test_nothing_goes_straight_to_a_socket_that_was_closed() -> None:
    async def test() -> None:
        _, transport, theirs = await a_pair()
        outlet = Outlet(transport)
        outlet.write(b"before")
        assert theirs.recv(100) == b"before"
        outlet.close()
        transport.abort()
        outlet.write(b"after")
        with pytest.raises(BlockingIOError):
            theirs.recv(100)
        await asyncio.sleep(0)
        theirs.close()

    asyncio.run(test())
