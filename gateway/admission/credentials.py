"""Where in a request a token is (DESIGN section 7). Pure."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from gateway.admission.refusal import Refusal
from gateway.admission.request import Request
from gateway.close_codes import CloseCode

BEARER_SUBPROTOCOL: Final = b"bearer."
"""What the subprotocol that carries a token begins with: a browser's WebSocket can send no header."""

QUERY_TOKEN: Final = "token"  # noqa: S105 - the option's name


def find_token(
    request: Request, options: Mapping[str, str], *, cookie: str | None, allow_query_token: bool
) -> bytes | Refusal:
    """The token of a request, or why there is none. One that is sent on purpose has the word over the
    cookie, which a browser sends with everything, and which counts only for a page whose Origin
    was checked, or which is of this very origin (W3C Fetch Metadata)."""
    sent = [
        *_authorization(request),
        *(
            subprotocol.removeprefix(BEARER_SUBPROTOCOL)
            for subprotocol in request.tokens(b"sec-websocket-protocol")
            if subprotocol.startswith(BEARER_SUBPROTOCOL)
        ),
    ]
    if QUERY_TOKEN in options:
        if not allow_query_token:
            return _bad_request(
                "A token in the query ends up in logs, so it is not taken; send it in Authorization or as the "
                "subprotocol bearer.<token>, or set ALLOW_QUERY_TOKEN=true."
            )
        sent.append(options[QUERY_TOKEN].encode())
    if len(sent) > 1:
        return _bad_request("More than one token was sent; send one.")
    if sent:
        return sent[0]
    return _missing() if cookie is None else _cookie(request, cookie.encode())


def _authorization(request: Request) -> list[bytes]:
    """Of `Authorization: Bearer` (RFC 6750 section 2.1). Other schemes are a proxy's business."""
    value = request.header(b"authorization")
    if value is None:
        return []
    scheme, _, token = value.partition(b" ")
    return [token.strip(b" ")] if scheme.lower() == b"bearer" else []


def _cookie(request: Request, name: bytes) -> bytes | Refusal:
    found = set()
    for part in (request.header(b"cookie") or b"").split(b";"):
        key, equals, value = part.strip(b" \t").partition(b"=")
        if equals and key == name:
            found.add(value.strip(b'"'))
    if not found:
        return _missing()
    if len(found) > 1:  # a page of a neighbouring host may have set one: whose is not to be told
        return _bad_request(f"The cookie {name.decode()} was sent twice.")
    # A page's own requests have no Origin when they only read; what says so instead no page can set.
    if request.header(b"origin") is None and request.header(b"sec-fetch-site") != b"same-origin":
        message = "The cookie counts only for a page, and there is no Origin; send the token in Authorization."
        return Refusal(HTTPStatus.FORBIDDEN, "origin_not_allowed", message, CloseCode.ORIGIN_NOT_ALLOWED)
    return found.pop()


def _missing() -> Refusal:
    return Refusal(
        HTTPStatus.UNAUTHORIZED,
        "unauthorized",
        "A token is missing; send it as Authorization: Bearer <token>, or as the subprotocol bearer.<token> "
        "beside notify.v1 or notify.plain.",
        CloseCode.UNAUTHORIZED,
        (("WWW-Authenticate", "Bearer"),),
    )


def _bad_request(message: str) -> Refusal:
    return Refusal(HTTPStatus.BAD_REQUEST, "bad_request", message)
