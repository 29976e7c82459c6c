"""TLS on the public port: each new socket's handshake, within the bounds of the door.

Left to the event loop's server, nobody would know of a socket before its TLS handshake is over, so that those
who never finish one could take all open files, for a minute each. So the server accepts plain sockets; here
each is counted as one of the door's, has HEAD_SECONDS for its handshake, and goes to a door.
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

from gateway.door import REFUSALS_RESERVE, Door, Doorkeeper
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
        if self._port.keeper.excess_sockets < REFUSALS_RESERVE:
            try:
                raw = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
            except OSError:  # no open files left
                pass
            else:
                TlsHandshake(self._port, self._make_door, raw)
        cast(asyncio.Transport, transport).abort()  # uvloop's own is no subclass of it


class TlsHandshake(asyncio.Protocol):
    """The handshake of one socket, which counts as one of the door's. Owns the task that waits for its end."""

    def __init__(self, port: TlsPort, make_door: Callable[[], Door], raw: socket.socket) -> None:
        self._port = port
        self._make_door = make_door
        port.keeper.doors.add(self)
        self._task = asyncio.get_running_loop().create_task(self._run(raw))
        # Cancelled before it began, nobody has taken the socket.
        self._task.add_done_callback(lambda task: raw.close() if task.cancelled() else None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is over."""
        self._leave()
        made = cast(asyncio.Transport, transport)
        made.set_write_buffer_limits(WRITE_BUFFER_BYTES)
        door = self._make_door()
        made.set_protocol(door)
        door.connection_made(made)

    def close(self) -> None:
        """The replica is going."""
        self._task.cancel()

    def _leave(self) -> None:
        self._port.keeper.doors.discard(self)

    async def _run(self, raw: socket.socket) -> None:
        # Without TLS, too slow, or gone: nothing that could be told to it.
        with contextlib.suppress(OSError):
            try:
                await asyncio.get_running_loop().connect_accepted_socket(
                    lambda: self,
                    raw,
                    ssl=self._port.context,
                    ssl_handshake_timeout=self._port.keeper.settings.head_seconds,
                    ssl_shutdown_timeout=LINGER_SECONDS,
                )
            finally:
                self._leave()
