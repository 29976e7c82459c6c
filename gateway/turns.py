"""What clients say, their handshakes included, is read and obeyed in turns of the loop that all of them share.

A client may say five seconds' worth at once, and many clients may do so in the same moment: done as it
is read, that would hold up everything else for as long as all of them take.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

A_TURN: Final = 48
"""Frames parsed and messages obeyed in one turn of the loop, for all clients together: about half a
millisecond's work. The last part may be a slice of frames, which are a few more."""


class Speaker(Protocol):
    """A client that has said something."""

    def go_on(self) -> tuple[int, bool]:
        """Do the next part of it: how many frames or messages that was, and whether there is more."""

    def listen(self) -> None:
        """It waited, and all of it is done: it may say more."""


class Turns:
    """The clients of a replica that have said something, and what this turn still has room for.

    `call_soon` is the running loop's unless told otherwise.
    """

    def __init__(self, call_soon: Callable[[Callable[[], None]], object] | None = None) -> None:
        self._call_soon = call_soon
        self._waiting: deque[Speaker] = deque()
        self._left = A_TURN
        self._next_is_asked = False

    def begin(self, client: Speaker) -> bool:
        """Do what `client` said, at once if this turn has room for it. False: the rest comes in its turn,
        and `client` is to say no more until then."""
        while self._left > 0 and not self._waiting:
            if not self._go_on(client):
                return True
        self._waiting.append(client)
        return False

    def _go_on(self, client: Speaker) -> bool:
        done, has_more = client.go_on()
        self._left -= done
        # Not before half is spent: a turn for each frame that comes alone would cost as much as the frame.
        if self._left <= A_TURN // 2 and not self._next_is_asked:
            self._ask_for_next()
        return has_more

    def _ask_for_next(self) -> None:
        self._next_is_asked = True
        (self._call_soon or asyncio.get_running_loop().call_soon)(self._turn)

    def _turn(self) -> None:
        self._left = A_TURN
        self._next_is_asked = False
        if self._waiting:
            self._ask_for_next()  # first: a client that fails is not to hold up the others for ever
        while self._waiting and self._left > 0:
            client = self._waiting.popleft()
            if self._go_on(client):
                self._waiting.append(client)
            else:
                client.listen()
