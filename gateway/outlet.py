"""The way out of one socket: straight into the kernel, unless something waits in its transport already.

A transport takes half a microsecond longer for each write: more than all the rest that a delivery
costs outside of the kernel.
"""

import asyncio
import os
from typing import Final

_NONE: Final = -1


class Outlet:
    """Writes to one socket, in the order in which it is told to.

    Once the kernel takes no more, the rest waits in the transport, which pauses its protocol as ever.
    """

    __slots__ = ("_fd", "_is_clear", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        raw = transport.get_extra_info("socket")
        is_tls = transport.get_extra_info("sslcontext") is not None
        self._fd = _NONE if raw is None or is_tls else raw.fileno()
        self._is_clear = False

    def write(self, data: bytes) -> None:
        """Never blocks, never raises: a socket that has failed is closed by its transport."""
        if not self._is_clear:
            if self._fd == _NONE or self._transport.get_write_buffer_size():
                self._transport.write(data)
                return
            self._is_clear = True
        try:
            taken = os.write(self._fd, data)
        except OSError:
            taken = 0
        if taken < len(data):
            self._is_clear = False
            self._transport.write(data[taken:])

    def close(self) -> None:
        """Nothing more goes straight to the socket. To be called no later than in `connection_lost`: after it
        the number may be another socket's (both event loops close it then, and not before)."""
        self._fd = _NONE
        self._is_clear = False
