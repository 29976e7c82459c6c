"""aiokafka says the same thing ten times a second while a broker is away; once in a while is enough."""

import logging
import time
from typing import Final

SAY_AGAIN_SECONDS: Final = 10.0


class SayItOnce(logging.Filter):
    """Lets each kind of line of one library through once in 10 s. Other loggers are not touched.

    A kind is a format string of the library's code, so there are only so many to remember.
    """

    def __init__(self, library: str) -> None:
        super().__init__()
        self._library = library
        self._said_at: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.partition(".")[0] != self._library or not isinstance(record.msg, str):
            return True
        now = time.monotonic()
        if now - self._said_at.get(record.msg, float("-inf")) < SAY_AGAIN_SECONDS:
            return False
        self._said_at[record.msg] = now
        return True
