"""Control messages that wait for their turn.

A client may say five seconds' worth of messages at once, and many clients may do so in the same moment:
obeyed as they are read, they would hold up everything else for as long as all of them take.
"""

import asyncio
from collections import deque
from typing import Final, Protocol

A_TURN: Final = 32
"""Messages obeyed in one turn of the loop, about half a millisecond's work."""


class Hearing(Protocol):
    """A client that has said several things."""

    def hear_next(self) -> bool:
        """Do the next of them. False: that was all."""


class Controls:
    """The clients of a replica that wait: one message of each in its turn."""

    def __init__(self) -> None:
        self._waiting: deque[Hearing] = deque()

    def add(self, client: Hearing) -> None:
        """`client` has several messages. It says no more until it was heard."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._hear_some)
        self._waiting.append(client)

    def _hear_some(self) -> None:
        for _ in range(A_TURN):
            client = self._waiting.popleft()
            if client.hear_next():
                self._waiting.append(client)
            if not self._waiting:
                return
        asyncio.get_running_loop().call_soon(self._hear_some)
