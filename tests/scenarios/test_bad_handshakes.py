"""The front door against requests and frames that no library would send."""

from typing import Any

import pytest
from harness.raw import UPGRADE, RawSocket
from harness.stage import Stage

from demo.process import Process

TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10
Frame = tuple[int, bytes, dict[str, Any]]
"""Opcode, payload, and how it is wrong: options of RawSocket.send_frame."""


@pytest.fixture
async def gateway(stage: Stage) -> Process:
    gateway = stage.add_gateway(env={"CLIENT_FRAMES_PER_SECOND": "1000"})
    await stage.start(gateway)
    return gateway


async def still_serves(stage: Stage, gateway: Process) -> None:
    """The replica is as it was: health answers, a good client gets in."""
    assert (await stage.get(gateway, "/livez"))[0] == 200
    assert await stage.status_of_a_handshake(gateway, "ann") == 101


async def test_a_wrong_handshake_gets_a_status_and_json_that_says_what_to_do(stage: Stage, gateway: Process) -> None:
    without = {name: {key: value for key, value in UPGRADE.items() if key != name} for name in UPGRADE}
    for target, headers, method, status in (
        ("/ws", UPGRADE, "GET", 400),
        ("/ws?user_id=", UPGRADE, "GET", 400),
        ("/ws?user_id=" + "u" * 129, UPGRADE, "GET", 400),
        ("/ws?user_id=a%00b", UPGRADE, "GET", 400),
        ("/ws?user_id=%ff", UPGRADE, "GET", 400),
        ("/ws?user_id=%ed%a0%80", UPGRADE, "GET", 400),
        ("/ws?user_id=ann&user_id=bob", UPGRADE, "GET", 400),
        ("/ws?user_id=ann&types=nonsense", UPGRADE, "GET", 400),
        ("/ws?user_id=ann", without["Sec-WebSocket-Key"], "GET", 400),
        ("/ws?user_id=ann", UPGRADE | {"Sec-WebSocket-Key": "short"}, "GET", 400),
        ("/ws?user_id=ann", UPGRADE | {"Sec-WebSocket-Protocol": "nobodys"}, "GET", 400),
        ("/ws?user_id=ann", UPGRADE | {"Sec-WebSocket-Version": "8"}, "GET", 426),
        ("/ws?user_id=ann", without["Sec-WebSocket-Version"], "GET", 426),
        ("/ws?user_id=ann", without["Upgrade"], "GET", 426),
        ("/ws?user_id=ann", without["Connection"], "GET", 426),
        ("/ws?user_id=ann", {"Host": "127.0.0.1"}, "GET", 426),
        ("/ws?user_id=ann", UPGRADE | {"X-Big": "x" * 20_000}, "GET", 431),
        ("/nothing-here", {"Host": "127.0.0.1"}, "GET", 404),
        ("/ws/", {"Host": "127.0.0.1"}, "GET", 404),
        ("/nothing-here", UPGRADE, "GET", 404),
        ("/ws?user_id=ann", UPGRADE, "POST", 405),
    ):
        case = f"{method} {target[:60]} {sorted(headers.items() - UPGRADE.items())}"[:200]
        socket = await RawSocket.connect(gateway.port)
        try:
            answer = await socket.request(target, headers, method)
            assert answer.status == status, f"{case}: {answer}"
            assert any(isinstance(text, str) and text for text in answer.json.values()), f"{case}: {answer}"
            if status == 426:
                assert answer.headers["sec-websocket-version"] == "13", case
                assert answer.headers["upgrade"].lower() == "websocket", case
        finally:
            await socket.close()
    await still_serves(stage, gateway)


async def test_what_is_not_http_is_refused(stage: Stage, gateway: Process) -> None:
    for data in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /ws?user_id=ann HTTP/1.1\nHost: x\n\r\n\r\n",
        b"GET /ws?user_id=ann HTTP/2.0\r\nHost: x\r\n\r\n",
        b"GET  /ws HTTP/1.1\r\n\r\n",
        b"GET /ws?user_id=ann HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET /ws?user_id=ann HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n",
        b"GET /ws?user_id=\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\r\n\r\n",
    ):
        socket = await RawSocket.connect(gateway.port)
        try:
            socket.writer.write(data)
            assert (await socket.answer()).status == 400, data
        finally:
            await socket.close()
    await still_serves(stage, gateway)


async def test_a_head_that_does_not_come_in_time_is_closed(stage: Stage) -> None:
    gateway = stage.add_gateway(env={"HEAD_SECONDS": "1"})
    await stage.start(gateway)
    silent, slow = await RawSocket.connect(gateway.port), await RawSocket.connect(gateway.port)
    try:
        slow.writer.write(b"GET /ws?user_id=ann HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        assert b"101" not in await slow.until_closed()
        assert b"101" not in await silent.until_closed()
    finally:
        await silent.close()
        await slow.close()
    await still_serves(stage, gateway)


WRONG_FRAMES: dict[str, tuple[set[int], list[Frame]]] = {
    "unmasked": ({1002}, [(TEXT, b"hi", {"masked": False})]),
    "reserved bit 1": ({1002}, [(TEXT, b"hi", {"reserved": 4})]),
    "reserved bit 2": ({1002}, [(TEXT, b"hi", {"reserved": 2})]),
    "reserved bit 3": ({1002}, [(TEXT, b"hi", {"reserved": 1})]),
    "reserved opcode": ({1002}, [(3, b"hi", {})]),
    "reserved control opcode": ({1002}, [(11, b"", {})]),
    "ping too long": ({1002}, [(PING, b"x" * 126, {})]),
    "fragmented ping": ({1002}, [(PING, b"x", {"fin": False})]),
    "continuation of nothing": ({1002}, [(CONTINUATION, b"x", {})]),
    "text inside text": ({1002}, [(TEXT, b"x", {"fin": False}), (TEXT, b"y", {})]),
    "close with half a code": ({1002}, [(CLOSE, b"x", {})]),
    "close with a code that may not be sent": ({1002}, [(CLOSE, b"\x03\xed", {})]),
    "close with a broken reason": ({1007, 1002}, [(CLOSE, b"\x03\xe8\xff", {})]),
    "binary": ({1003}, [(BINARY, b"\x00", {})]),
    "invalid UTF-8": ({1007}, [(TEXT, b"\xff\xfe", {})]),
    "surrogate": ({1007}, [(TEXT, b"\xed\xa0\x80", {})]),
    "broken between fragments": ({1007}, [(TEXT, b"\xf0\x9f", {"fin": False}), (CONTINUATION, b"!", {})]),
    "cut off at the end": ({1007}, [(TEXT, b"\xf0\x9f", {})]),
    "too large": ({1009}, [(TEXT, b"x" * 2_000_000, {})]),
    "too large in fragments": (
        {1009},
        [(TEXT, b"x" * 1_000, {"fin": False}), *[(CONTINUATION, b"x" * 1_000, {"fin": False})] * 2_000],
    ),
    "endless empty fragments": (
        {1009},
        [(TEXT, b"", {"fin": False}), *[(CONTINUATION, b"", {"fin": False})] * 1_000],
    ),
}


async def test_a_wrong_frame_closes_that_connection_with_the_code_of_the_rfc(stage: Stage, gateway: Process) -> None:
    got = {}
    for name, (_, frames) in WRONG_FRAMES.items():
        socket = await RawSocket.connect(gateway.port)
        try:
            await socket.upgrade("ann")
            for opcode, payload, options in frames:
                if socket.is_closing:
                    break
                socket.send_frame(opcode, payload, **options)
            got[name] = await socket.close_code()
        finally:
            await socket.close()
    assert {name: code for name, code in got.items() if code not in WRONG_FRAMES[name][0]} == {}
    await still_serves(stage, gateway)


async def test_chatter_of_a_plain_client_is_ignored_and_pings_are_answered(stage: Stage, gateway: Process) -> None:
    socket = await RawSocket.connect(gateway.port)
    try:
        await socket.upgrade("ann")
        socket.send_frame(TEXT, b'{"control":"ping"}')
        socket.send_frame(TEXT, b"\xf0\x9f", fin=False)
        socket.send_frame(PING, b"in between")
        socket.send_frame(CONTINUATION, b"\x98\x80")
        while (answer := await socket.read_frame())[0] == PING:
            pass  # its own, when it is time
        assert answer == (PONG, b"in between")
        socket.send_frame(CLOSE, b"\x03\xe8bye")
        assert await socket.close_code() == 1000
        assert await socket.until_closed() == b""
    finally:
        await socket.close()
