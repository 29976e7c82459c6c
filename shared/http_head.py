"""Where the head of an HTTP/1 request ends, while it comes in parts (RFC 9112 section 2.1). Pure."""

import sys
from typing import Final

END_OF_HEAD: Final = b"\r\n\r\n"


def find_end(head: bytes, searched_bytes: int, within_bytes: int = sys.maxsize) -> int:
    """The place of END_OF_HEAD in what has come of a head; -1 when it is not there, or not whole within so
    many bytes. What was searched before is not searched again, but for an end that came in two parts."""
    return head.find(END_OF_HEAD, max(0, searched_bytes - len(END_OF_HEAD) + 1), within_bytes)
