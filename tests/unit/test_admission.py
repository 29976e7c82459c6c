"""From a request's head to who connects, or to a refusal."""

import contextlib
import json
import time
from dataclasses import replace
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import close_of

from gateway.admission.admit import Admitted, AskAgain, Refused, admit
from gateway.admission.handshake import (
    Handshake,
    check_handshake,
    choose_subprotocol,
    refusal_answer,
    switching_protocols,
)
from gateway.admission.locality import refuse_unless_local
from gateway.admission.policy import Policy
from gateway.admission.refusal import Refusal, refusal_response, spread_ms, unavailable
from gateway.admission.request import MalformedHead, Request, head_for_http, parse_head
from gateway.close_codes import CloseCode
from gateway.frames import Variant

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = {
    "Host": "127.0.0.1:8000",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


def head(
    target: str = "/ws?user_id=ann",
    headers: dict[str, str | None] | None = None,
    *,
    method: str = "GET",
    version: str = "HTTP/1.1",
    more: tuple[str, ...] = (),
) -> bytes:
    """A handshake's head; `headers` replace its own, None takes one away."""
    merged = {**HANDSHAKE, **(headers or {})}
    lines = [f"{name}: {value}" for name, value in merged.items() if value is not None]
    return "\r\n".join((f"{method} {target} {version}", *lines, *more)).encode("latin-1")


def request(target: str = "/ws?user_id=ann", headers: dict[str, str | None] | None = None, **rest: str) -> Request:
    return parse_head(head(target, headers, **rest))  # type: ignore[arg-type]


# request


def test_a_head_is_read_into_its_fields() -> None:
    read = parse_head(b"GET /ws?user_id=a%20b&types=x HTTP/1.1\r\nHost:  here \t\r\nX-Empty:\r\naccept: a\r\nAccept: b")
    assert (read.method, read.path, read.query, read.is_http_1_1) == (b"GET", b"/ws", b"user_id=a%20b&types=x", True)
    assert read.headers == {b"host": b"here", b"x-empty": b"", b"accept": b"a, b"}
    assert read.header(b"missing") is None


def test_a_list_in_a_header_is_split_at_commas_wherever_it_was_repeated() -> None:
    read = parse_head(b"GET / HTTP/1.1\r\nUpgrade: a ,b,, c\r\nUpgrade:\td")
    assert read.tokens(b"upgrade") == [b"a", b"b", b"c", b"d"]
    assert read.tokens(b"missing") == []


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"GET",
        b"GET /",
        b"GET / HTTP/2.0",
        b"GET / HTTP/1.2",
        b"GET / http/1.1",
        b"GET  / HTTP/1.1",
        b"GET / HTTP/1.1 ",
        b" GET / HTTP/1.1",
        b"GET /a b HTTP/1.1",
        b"GET /\xc3\xa9 HTTP/1.1",
        b"GET /\x00 HTTP/1.1",
        b"G\xc9T / HTTP/1.1",
        b"G" * 33 + b" / HTTP/1.1",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET / HTTP/1.1\nHost: a",
        b"GET / HTTP/1.1\r\nHost: a\nX: b",
        b"GET / HTTP/1.1\r\nHost: a\rX: b",
        b"GET / HTTP/1.1\r\nHost: a\r\n folded",
        b"GET / HTTP/1.1\r\nHost : a",
        b"GET / HTTP/1.1\r\n: a",
        b"GET / HTTP/1.1\r\nHost",
        b"GET / HTTP/1.1\r\nHo st: a",
        b"GET / HTTP/1.1\r\nHost: a\x00",
        b"GET / HTTP/1.1\r\nHost: a\x7f",
        b"GET / HTTP/1.1\r\nHost: a\x0b",
        b"GET / HTTP/1.1\r\n\r\nHost: a",
    ],
)
def test_what_two_parsers_could_read_differently_is_malformed(bad: bytes) -> None:
    with pytest.raises(MalformedHead):
        parse_head(bad)


def test_bytes_above_ascii_in_a_value_are_allowed() -> None:
    assert parse_head(b"GET / HTTP/1.1\r\nX: caf\xc3\xa9\xff").header(b"x") == b"caf\xc3\xa9\xff"


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_malformed(data: bytes) -> None:
    try:
        parse_head(data)
    except MalformedHead:
        return


@pytest.mark.parametrize("filler", [b" ", b"\t", b" \t", b"a", b"a:", b","], ids=repr)
def test_no_head_takes_long_to_read(filler: bytes) -> None:
    """A head of the largest size is refused or read in a moment: while it is, the loop stands still."""
    filling = (filler * 16_384)[:16_300]
    took = []
    for _ in range(3):  # a processor that others use counts for more than it does
        started = time.process_time()
        for bad in (b"GET / HTTP/1.1\r\nA:" + filling + b"\x00", b"GET / HTTP/1.1\r\n" + filling, b"GET /" + filling):
            with contextlib.suppress(MalformedHead):
                parse_head(bad)
        took.append(time.process_time() - started)
    assert min(took) < 0.25  # milliseconds; a second when it is quadratic


def test_a_head_handed_on_is_the_last_on_its_socket_and_never_an_upgrade() -> None:
    given_head = b"GET /x HTTP/1.1\r\nHost: a\r\nconnection: keep-alive, Upgrade\r\nUPGRADE: websocket\r\nX: Connection"
    given_head += b"\r\nProxy-Connection: keep-alive"  # HTTP/1.0 would go on for it, whatever else is said
    assert head_for_http(given_head) == b"GET /x HTTP/1.1\r\nHost: a\r\nX: Connection\r\nConnection: close\r\n\r\n"


# handshake


def test_a_browsers_handshake_is_one() -> None:
    assert check_handshake(request()) is None


@pytest.mark.parametrize(
    "headers",
    [
        {"Upgrade": "WebSocket"},
        {"Upgrade": "h2c, websocket"},
        {"Connection": "keep-alive, upgrade"},
        {"Content-Length": "0"},
    ],
    ids=str,
)
def test_what_the_standard_allows_is_a_handshake(headers: dict[str, str | None]) -> None:
    assert check_handshake(request(headers=headers)) is None


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Upgrade": None}, 426),
        ({"Upgrade": "websockets"}, 426),
        ({"Connection": None}, 426),
        ({"Connection": "close"}, 426),
        ({"Sec-WebSocket-Version": None}, 426),
        ({"Sec-WebSocket-Version": "8"}, 426),
        ({"Sec-WebSocket-Version": "13, 8"}, 426),
        ({"Sec-WebSocket-Key": None}, 400),
        ({"Sec-WebSocket-Key": ""}, 400),
        ({"Sec-WebSocket-Key": "short"}, 400),
        ({"Sec-WebSocket-Key": KEY + "="}, 400),
        ({"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZR=="}, 400),
        ({"Sec-WebSocket-Key": f"{KEY}, {KEY}"}, 400),
        ({"Host": None}, 400),
        ({"Host": "a, b"}, 400),
        ({"Content-Length": "5"}, 400),
        ({"Content-Length": "0, 0"}, 400),
        ({"Transfer-Encoding": "chunked"}, 400),
    ],
    ids=str,
)
def test_a_request_that_is_no_handshake_is_told_what_is_wrong(headers: dict[str, str | None], status: int) -> None:
    refusal = check_handshake(request(headers=headers))
    assert refusal is not None
    assert refusal.status == status
    assert refusal.message.endswith(".")
    if status == 426:
        assert ("Sec-WebSocket-Version", "13") in refusal.headers
        assert ("Upgrade", "websocket") in refusal.headers


def test_http_1_0_cannot_upgrade() -> None:
    refusal = check_handshake(request(version="HTTP/1.0"))
    assert refusal is not None
    assert refusal.status == 426


@pytest.mark.parametrize("method", ["POST", "HEAD", "get", "OPTIONS"])
def test_only_get_is_a_handshake(method: str) -> None:
    refusal = check_handshake(request(method=method))
    assert refusal is not None
    assert refusal.status == 405
    assert ("Allow", "GET") in refusal.headers


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (None, None),
        ("", None),
        ("notify.plain", b"notify.plain"),
        ("graphql-ws, notify.plain", b"notify.plain"),
        ("bearer.abc,notify.plain", b"notify.plain"),
    ],
)
def test_ours_is_chosen_among_the_subprotocols_offered(offered: str | None, chosen: bytes | None) -> None:
    assert choose_subprotocol(request(headers={"Sec-WebSocket-Protocol": offered})) == chosen


@pytest.mark.parametrize("offered", ["graphql-ws", "NOTIFY.PLAIN", "bearer.secret-token", "notify.plain2"])
def test_subprotocols_of_others_only_are_refused_without_repeating_them(offered: str) -> None:
    refusal = choose_subprotocol(request(headers={"Sec-WebSocket-Protocol": offered}))
    assert isinstance(refusal, Refusal)
    assert refusal.status == 400
    assert offered not in refusal.message


def test_the_answer_is_the_one_of_the_standard() -> None:
    answer = switching_protocols(Handshake(KEY.encode(), None))
    assert answer.split(b"\r\n") == [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        b"",
        b"",
    ]


# refusal


def test_a_refusal_is_a_whole_response_with_a_json_body() -> None:
    response = refusal_response(Refusal(HTTPStatus.BAD_REQUEST, "bad_request", "Say “please”."))
    top, _, body = response.partition(b"\r\n\r\n")
    lines = top.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 400 Bad Request"
    assert b"Content-Length: %d" % len(body) in lines
    assert b"Connection: close" in lines
    assert json.loads(body) == {"error": "bad_request", "message": "Say “please”."}


def test_a_refusal_that_should_be_retried_says_when() -> None:
    refusal = unavailable("Full.", 1_234)
    assert b"\r\nRetry-After: 1\r\n" in refusal_response(refusal)
    assert refusal.close_reason == "unavailable retry_after_ms=1234"
    assert b"\r\nRetry-After: 1\r\n" in refusal_response(unavailable("Full.", 10))


def test_a_crowd_is_told_different_times() -> None:
    times = {spread_ms() for _ in range(100)}
    assert len(times) > 20
    assert min(times) >= 500
    assert max(times) <= 3_000


@pytest.mark.parametrize("handshake", [None, Handshake(KEY.encode(), None)])
def test_a_client_without_subprotocol_gets_the_status(handshake: Handshake | None) -> None:
    assert refusal_answer(unavailable("Full.", 1_000), Variant.PLAIN, handshake).startswith(b"HTTP/1.1 503 ")


def test_a_client_with_our_subprotocol_gets_a_close_code() -> None:
    answer = refusal_answer(unavailable("Full.", 1_000), Variant.PLAIN, Handshake(KEY.encode(), b"notify.plain"))
    top, _, frames = answer.partition(b"\r\n\r\n")
    assert top.startswith(b"HTTP/1.1 101 ")
    assert close_of(frames) == (4004, "unavailable retry_after_ms=1000")


def test_a_refusal_without_close_code_is_always_a_status() -> None:
    refusal = Refusal(HTTPStatus.UPGRADE_REQUIRED, "upgrade_required", "No.", None)
    assert refusal_answer(refusal, Variant.PLAIN, Handshake(KEY.encode(), b"notify.plain")).startswith(b"HTTP/1.1 426 ")


# locality


def local(peer: str = "127.0.0.1", **headers: str | None) -> bool:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    refusal = refuse_unless_local(request(headers={"Host": "localhost", **named}), peer)
    if refusal is not None:
        assert (refusal.status, refusal.close) == (401, CloseCode.UNAUTHORIZED)
        assert "AUTH_MODE" in refusal.message
    return refusal is None


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1", "::ffff:7f00:1"])
def test_a_loopback_peer_is_local(peer: str) -> None:
    assert local(peer)


@pytest.mark.parametrize(
    "peer", ["10.0.0.1", "192.168.1.2", "8.8.8.8", "::ffff:10.0.0.1", "fe80::1", "2001:db8::1", "", "0.0.0.0", "::"]
)
def test_any_other_peer_is_not(peer: str) -> None:
    assert not local(peer)


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "LOCALHOST", "127.0.0.1", "127.0.0.1:8000", "127.1.2.3", "[::1]:8000"]
)
def test_a_loopback_host_is_local(host: str) -> None:
    assert local(Host=host)


@pytest.mark.parametrize(
    "host",
    [
        "example.com",
        "127.0.0.1.evil.com",
        "localhost.evil",
        "localhost.evil.com:8000",
        "evil.localhost.com",
        "localhost@evil.com",
        "localhost:8000@evil.com",
        "evil.com@localhost",
        "evil.com:80@127.0.0.1",
        "localhost, evil.com",
        "evil.com, localhost",
        "localhost/evil.com",
        "localhost?evil.com",
        "localhost#evil.com",
        "localhost\\evil.com",
        "local\thost",
        "[::1].evil.com",
        "[::1",
        "[10.0.0.1]",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "127.0.0.1%00.evil.com",
        "localhost:port",
        "",
        ":8000",
        "10.0.0.1",
        "l\xf6calhost",
    ],
)
def test_a_host_that_only_looks_like_it_is_not(host: str) -> None:
    assert not local(Host=host)


def test_a_missing_host_is_not_local() -> None:
    assert not local(Host=None)


@pytest.mark.parametrize("origin", ["http://localhost:3000", "https://127.0.0.1", "http://[::1]:5173", None])
def test_a_local_page_or_no_page_is_local(origin: str | None) -> None:
    assert local(Origin=origin)


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "https://evil.com",
        "http://127.0.0.1.evil.com",
        "http://localhost.evil",
        "http://localhost@evil.com",
        "http://evil.com@localhost",
        "file://",
        "localhost",
        "http://localhost http://evil.com",
        "http://localhost, http://evil.com",
        "http://[",
    ],
)
def test_any_other_page_is_not(origin: str) -> None:
    assert not local(Origin=origin)


@pytest.mark.parametrize(
    "name",
    ["Forwarded", "X-Forwarded-For", "x-forwarded-host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Real-IP", "Via",
     "X-Forwarded-Anything", "CF-Connecting-IP", "True-Client-IP"],
)  # fmt: skip
def test_what_came_through_a_proxy_is_not_local(name: str) -> None:
    assert not local(**{name: "127.0.0.1"})
    assert not local(**{name: ""})


# admit


EVERYBODY = Policy("none")
LOCAL = Policy()


def admitted(query: str, policy: Policy = EVERYBODY, *, peer: str = "10.0.0.1") -> Admitted | Refused | AskAgain:
    return admit(request(f"/ws?{query}"), peer, policy)


@pytest.mark.parametrize(
    ("query", "user_id"),
    [
        ("user_id=ann", "ann"),
        ("user_id=42", "42"),
        ("&&user_id=ann&", "ann"),
        ("other=1&user_id=ann", "ann"),
        ("user%5Fid=ann", "ann"),
        ("user_id=a+b", "a+b"),
        ("user_id=a%2Bb", "a+b"),
        ("user_id=a%20b", "a b"),
        ("user_id=a=b", "a=b"),
        ("user_id=%26%3D%25", "&=%"),
        ("user_id=%F0%9F%98%80", "😀"),
        ("user_id=" + "%F0%9F%98%80" * 128, "😀" * 128),
        ("user_id=%f0%9f%98%80", "😀"),
        ("user_id=%C2%A0", "\u00a0"),
        ("user_id=a%2", "a%2"),
        ("user_id=../../etc", "../../etc"),
        ("user_id=global", "global"),
        ("user_id=" + "x" * 128, "x" * 128),
    ],
)
def test_a_user_id_is_what_the_query_says(query: str, user_id: str) -> None:
    decided = admitted(query)
    assert isinstance(decided, Admitted)
    assert decided.asked.user_id == user_id
    assert decided.asked.types is None
    assert decided.handshake == Handshake(KEY.encode(), None)


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("", "missing"),
        ("user=ann", "missing"),
        ("USER_ID=ann", "missing"),
        ("user_id", "empty"),
        ("user_id=", "empty"),
        ("user_id=" + "x" * 129, "longer"),
        ("user_id=" + "%F0%9F%98%80" * 129, "longer"),
        ("user_id=a%00", "control"),
        ("user_id=%0D", "control"),
        ("user_id=a%0Ab", "control"),
        ("user_id=%7F", "control"),
        ("user_id=%C2%85", "control"),
        ("user_id=%ED%A0%80", "UTF-8"),
        ("user_id=%ED%A0%BD%ED%B8%80", "UTF-8"),
        ("user_id=%FF", "UTF-8"),
        ("user_id=%C0%80", "UTF-8"),
        ("user_id=%F4%90%80%80", "UTF-8"),
        ("%FF=1&user_id=ann", "UTF-8"),
        ("user_id=ann&user_id=bob", "twice"),
        ("user_id=ann&user%5fid=ann", "twice"),
        ("user_id=ann&types=risk_alert&types=risk_alert", "twice"),
        ("user_id=ann&types=", "types"),
        ("user_id=ann&types=nonsense", "types"),
        ("user_id=ann&types=risk_alert,nonsense", "types"),
        ("user_id=ann&types=risk_alert,", "types"),
        ("user_id=ann&types=RISK_ALERT", "types"),
    ],
)
def test_a_query_that_cannot_be_served_is_told_why_in_a_sentence(query: str, word: str) -> None:
    decided = admitted(query)
    assert isinstance(decided, Refused)
    assert (decided.refusal.status, decided.refusal.error) == (400, "bad_request")
    assert word in decided.refusal.message
    assert decided.refusal.message.endswith(".")
    assert decided.handshake is not None


def test_types_are_those_that_are_named() -> None:
    decided = admitted("user_id=ann&types=risk_alert,order_executed,risk_alert")
    assert isinstance(decided, Admitted)
    assert decided.asked.types == {b"risk_alert", b"order_executed"}


def test_without_auth_mode_a_stranger_is_refused_before_the_query_is_read() -> None:
    decided = admitted("", LOCAL)
    assert isinstance(decided, Refused)
    assert decided.refusal.status == 401
    local_one = admitted("user_id=ann", LOCAL, peer="127.0.0.1")
    assert isinstance(local_one, Admitted)


def test_what_is_no_handshake_is_refused_first() -> None:
    decided = admit(request(headers={"Upgrade": None}), "10.0.0.1", LOCAL)
    assert isinstance(decided, Refused)
    assert decided.refusal.status == 426
    assert decided.handshake is None


def test_unknown_subprotocols_are_refused_by_status() -> None:
    decided = admit(request(headers={"Sec-WebSocket-Protocol": "other"}), "127.0.0.1", EVERYBODY)
    assert isinstance(decided, Refused)
    assert decided.refusal.status == 400
    assert decided.handshake is None


@given(st.binary(max_size=60))
def test_any_query_is_admitted_or_refused(query: bytes) -> None:
    target = b"/ws?" + bytes(byte for byte in query if 0x21 <= byte <= 0x7E)
    decided = admit(parse_head(head().replace(b"/ws?user_id=ann", target)), "127.0.0.1", EVERYBODY)
    assert isinstance(decided, Admitted | Refused)


# Compression (RFC 7692 section 7)


@pytest.mark.parametrize(
    ("offers", "extensions"),
    [
        (None, None),
        ("permessage-deflate; client_max_window_bits", b"permessage-deflate; server_no_context_takeover"),
        ("permessage-deflate; unknown", None),
        ("x-other", None),
    ],
)
def test_compression_is_agreed_on_where_it_is_offered_and_set(offers: str | None, extensions: bytes | None) -> None:
    asked = request(headers={"Sec-WebSocket-Extensions": offers})
    decided = admit(asked, "10.0.0.1", replace(EVERYBODY, deflates=True))
    assert isinstance(decided, Admitted)
    assert decided.handshake is not None
    agreed = decided.handshake.extensions
    assert agreed == extensions or (extensions is not None and agreed is not None and agreed.startswith(extensions))
    answer = switching_protocols(decided.handshake)
    assert (b"\r\nSec-WebSocket-Extensions: %s\r\n" % agreed in answer) if agreed else (b"Extensions" not in answer)

    decided = admit(asked, "10.0.0.1", EVERYBODY)
    assert isinstance(decided, Admitted)
    assert decided.handshake is not None
    assert decided.handshake.extensions is None


def test_a_malformed_offer_is_refused_where_offers_are_read() -> None:
    asked = request(headers={"Sec-WebSocket-Extensions": "permessage-deflate; ="})
    decided = admit(asked, "10.0.0.1", replace(EVERYBODY, deflates=True))
    assert isinstance(decided, Refused)
    assert (decided.refusal.status, decided.refusal.error) == (400, "bad_request")
    assert isinstance(admit(asked, "10.0.0.1", EVERYBODY), Admitted)
