"""What aiokafka says, in moderation and with what to do about it.

It says the same thing ten times a second while a broker is away; once in a while is enough. And its log is
the only place where it says why a broker could not be connected to.
"""

import logging
import time
from typing import Final

from relay.redpanda import advice

SAY_AGAIN_SECONDS: Final = 10.0


class SayItOnce(logging.Filter):
    """Lets each kind of line of one library through once in 10 s, which says how many were left out (`suppressed`).

    Other loggers are not touched. A kind is a format string of the library's code, so there are only so many to
    remember.
    """

    def __init__(self, library: str) -> None:
        super().__init__()
        self._library = library
        # Of each kind: when it was let through, and how many were left out since.
        self._said: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not _is_of(self._library, record) or not isinstance(record.msg, str):
            return True
        now = time.monotonic()
        said_at, left_out = self._said.get(record.msg, (float("-inf"), 0))
        if now - said_at < SAY_AGAIN_SECONDS:
            self._said[record.msg] = said_at, left_out + 1
            return False
        self._said[record.msg] = now, 0
        record.suppressed = left_out
        return True


class SayWhatToDo(logging.Filter):
    """Puts what to do behind a line of one library that tells of an error with known advice."""

    def __init__(self, library: str) -> None:
        super().__init__()
        self._library = library

    def filter(self, record: logging.LogRecord) -> bool:
        if _is_of(self._library, record) and isinstance(record.args, tuple) and isinstance(record.msg, str):
            for argument in record.args:
                if isinstance(argument, BaseException) and (text := advice(argument)):
                    record.msg, record.args = record.msg + " (%s)", (*record.args, text)
                    break
        return True


def _is_of(library: str, record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] == library
