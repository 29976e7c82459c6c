"""The head of a socket's first request (RFC 9112 sections 2 to 5), as bytes read into fields. Pure.

Strict where leniency lets two parsers disagree: no bare CR or LF, no folded lines, no white space
before a colon, no control characters.
"""

import re
from typing import Final, NamedTuple

from shared.http_head import END_OF_HEAD

_REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([\x21-\x7e]+) HTTP/1\.([01])")
# One way to match only: white space around the value is in it and stripped afterwards. A pattern of
# two parts that both take spaces would try them all, a second for a head full of them.
_HEADER: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\x00-\x08\x0a-\x1f\x7f]*)")

_OF_THE_CONNECTION: Final = frozenset((b"connection", b"proxy-connection", b"upgrade"))


class MalformedHead(Exception):
    """Not an HTTP/1 request head. Stays within the gateway; answered with 400."""


class Request(NamedTuple):
    """A request's head. `path` and `query` are as they were sent, percent-encoded.

    Header names are in lower case; the values of a repeated header are joined by `, `
    (RFC 9110 section 5.3), which makes a repeated Host or key invalid where one is required.
    """

    method: bytes
    path: bytes
    query: bytes
    is_http_1_1: bool
    headers: dict[bytes, bytes]

    def header(self, name: bytes) -> bytes | None:
        return self.headers.get(name)

    @property
    def has_body(self) -> bool:
        """It says that a body follows, or may be read so."""
        return self.header(b"content-length") not in (None, b"0") or self.header(b"transfer-encoding") is not None

    def tokens(self, name: bytes) -> list[bytes]:
        """A header that is a comma-separated list; empty when it is missing."""
        value = self.headers.get(name)
        return [token for part in value.split(b",") if (token := part.strip(b" \t"))] if value else []


def parse_head(head: bytes) -> Request:
    """Read a head, without its final empty line. Raises MalformedHead."""
    lines = head.split(b"\r\n")
    request_line = _REQUEST_LINE.fullmatch(lines[0])
    if request_line is None:
        raise MalformedHead("the request line is not one of HTTP/1")
    method, target, minor = request_line.groups()
    path, _, query = target.partition(b"?")
    headers: dict[bytes, bytes] = {}
    for line in lines[1:]:
        header = _HEADER.fullmatch(line)
        if header is None:
            raise MalformedHead("a header line is malformed")
        name, value = header.groups()
        name, value = name.lower(), value.strip(b" \t")
        headers[name] = b"%s, %s" % (headers[name], value) if name in headers else value
    return Request(method, path, query, minor == b"1", headers)


def head_for_http(head: bytes) -> bytes:
    """The head as handed on to the HTTP protocol: the same, but the last on its socket.

    The door sees only a socket's first request, so the answer to it closes the connection; what
    would switch protocols past the door, or keep the connection, is taken out.
    """
    lines = head.split(b"\r\n")
    kept = [line for line in lines if line.partition(b":")[0].strip().lower() not in _OF_THE_CONNECTION]
    return b"\r\n".join((*kept, b"Connection: close")) + END_OF_HEAD
