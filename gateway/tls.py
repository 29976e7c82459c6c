"""TLS on the public port: each new socket's handshake, within the bounds of the door.

Left to the event loop's server, nobody would know of a socket before its TLS handshake is over, so that those
who never finish one could take all open files, for a minute each. So the server accepts plain sockets; here
each is counted as one of the door's and for its address, has HEAD_SECONDS for its handshake, less where there
is no room, and goes to a door.
"""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.door import REFUSALS_RESERVE, Door, Doorkeeper, Newcomer, peer_host
from shared.bounded_http import LINGER_SECONDS

WRITE_BUFFER_BYTES: Final = 64 * 1024
"""What a transport holds before it takes no more: as much as a plain one. Of its own accord one with TLS
would hold 512 KiB, which are counted nowhere."""


class TlsPort:
    """What all sockets of a port with TLS share."""

    def __init__(self, keeper: Doorkeeper, context: ssl.SSLContext) -> None:
        self.keeper = keeper
        self.context = context

    def arrival(self, config: Config, server_state: ServerState, app_state: dict[str, Any], **_: object) -> "Arrival":
        """The protocol of a new socket, for uvicorn's `Config(http=...)`."""
        return Arrival(self, lambda: self.keeper.door(config, server_state, app_state))


class Arrival(asyncio.Protocol):
    """One new socket, for the moment in which it is taken from its plain transport.

    Upgraded in place (`start_tls`), uvloop's transport would have read the first bytes of the handshake,
    and given them to this protocol.
    """

    def __init__(self, port: TlsPort, make_door: Callable[[], Door]) -> None:
        self._port = port
        self._make_door = make_door

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        keeper = self._port.keeper
        if keeper.excess_sockets >= 0:
            # Not only at a door: where silent sockets have all places, nobody gets that far.
            keeper.makes_room()
        if keeper.excess_sockets < REFUSALS_RESERVE:
            try:
                raw = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
            except OSError:  # no open files left
                pass
            else:
                TlsHandshake(self._port, self._make_door, raw, peer_host(transport))
        cast(asyncio.Transport, transport).abort()  # uvloop's own is no subclass of it


class TlsHandshake(Newcomer, asyncio.Protocol):
    """The handshake of one socket, which counts as one of the door's. Owns the task that waits for its end."""

    def __init__(self, port: TlsPort, make_door: Callable[[], Door], raw: socket.socket, peer: str) -> None:
        super().__init__(port.keeper)
        self._context = port.context
        self._make_door = make_door
        self._raw = raw
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(self._ended)
        self._enter()
        self._count_peer(peer)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is over: from now on the door counts the socket, and its patience begins anew."""
        self._leave()
        made = cast(asyncio.Transport, transport)
        made.set_write_buffer_limits(WRITE_BUFFER_BYTES)
        door = self._make_door()
        made.set_protocol(door)
        door.connection_made(made)

    def close(self) -> None:
        self._forget()
        self._task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._leave()
        if task.cancelled():
            self._raw.close()  # perhaps before it began, and nobody has taken the socket

    async def _run(self) -> None:
        # Without TLS, too slow, or gone: nothing that could be told to it.
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self,
                self._raw,
                ssl=self._context,
                ssl_handshake_timeout=self._keeper.settings.head_seconds,
                ssl_shutdown_timeout=LINGER_SECONDS,
            )
