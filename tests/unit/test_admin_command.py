"""gateway/admin_command.py: what is asked of the admin port, and how its answers are told."""

import errno
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from gateway import commands
from gateway.admin_command import Call, NotAsked, call_of, origin_of, run, told, why
from gateway.settings import OperatorSettings


def settings(**values: Any) -> OperatorSettings:
    return OperatorSettings(_env_file=None, **values)  # type: ignore[call-arg]


def asked(*arguments: str) -> Any:
    return commands.parser().parse_args(["admin", *arguments])


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1", "http://127.0.0.1:8001"),
        ("0.0.0.0", "http://127.0.0.1:8001"),
        ("::", "http://[::1]:8001"),
        ("::1", "http://[::1]:8001"),
        ("10.1.2.3", "http://10.1.2.3:8001"),
        ("console.internal", "http://console.internal:8001"),
    ],
)
def test_the_port_is_where_the_settings_say(host: str, origin: str) -> None:
    assert origin_of(None, settings(admin_host=host)) == origin


def test_any_free_port_cannot_be_guessed() -> None:
    with pytest.raises(NotAsked, match="--url"):
        origin_of(None, settings(admin_port=0))


@pytest.mark.parametrize("url", ["http://10.0.0.1:9", "https://console.internal", "http://[::1]:8001"])
def test_a_url_has_the_word(url: str) -> None:
    assert origin_of(url, settings(admin_port=0)) == url
    assert origin_of(url + "/", settings()) == url


@pytest.mark.parametrize(
    "url",
    ["", "10.0.0.1:8001", "ftp://a", "http://", "http://a:b", "http://a:70000", "http://a/admin", "http://a?b",
     "http://user:secret@a", "http://[::1"],
)  # fmt: skip
def test_what_is_no_origin_is_not_asked(url: str) -> None:
    with pytest.raises(NotAsked, match="--url takes"):
        origin_of(url, settings())


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        (["status"], Call("GET", "/console/feed")),
        (["presence", "ann"], Call("POST", "/admin/presence", {"user_id": "ann"})),
        (["revoke", "ann"], Call("POST", "/admin/revoke", {"user_id": "ann"})),
        (["disconnect", "ann"], Call("POST", "/admin/disconnect", {"user_id": "ann", "retry": True})),
        (["disconnect", "ann", "--no-retry"], Call("POST", "/admin/disconnect", {"user_id": "ann", "retry": False})),
        (["disconnect", "--all"], Call("POST", "/admin/disconnect", {"everyone": True, "retry": True})),
        (["drain", "host-1"], Call("POST", "/admin/drain", {"replica": "host-1"})),
        (["drain"], Call("POST", "/admin/drain", {"replica": None})),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_asked(arguments: list[str], call: Call) -> None:
    assert call_of(asked(*arguments)) == call


@pytest.mark.parametrize(
    "arguments", [["disconnect"], ["disconnect", "ann", "--all"], ["presence", ""], ["revoke", "a\nb"]], ids=str
)
def test_what_is_not_asked(arguments: list[str]) -> None:
    with pytest.raises(NotAsked):
        call_of(asked(*arguments))


def test_presence_is_a_line_for_each_replica() -> None:
    shares = {"host-1": {"connections": 2, "opened_ms": [0, 1_000]}, "b": {"connections": 1, "opened_ms": [0]}}
    assert told(asked("presence", "ann"), {"replicas": shares}) == [
        "host-1     2  opened 1970-01-01 00:00:00 UTC, 1970-01-01 00:00:01 UTC",
        "b          1  opened 1970-01-01 00:00:00 UTC",
    ]
    assert told(asked("presence", "ann"), {"replicas": {}}) == ["ann has no connection"]


def test_status_is_a_line_for_each_process_and_says_what_is_wrong() -> None:
    relay = {
        "name": "r-1",
        "seen_ms_ago": 300,
        "state": "ready",
        "reason": None,
        "partitions": 4,
        "lag": {"a": 1, "b": 2},
    }
    replica = {
        "name": "host-1",
        "seen_ms_ago": 300,
        "state": "ready",
        "reason": None,
        "connections": 42,
        "address": "80",
    }
    fleet = {
        "redis": {"up": True, "ms": 0.4, "error": None, "address": "redis:6379"},
        "relays": [relay, relay | {"name": "r-2", "seen_ms_ago": 9_400, "state": "stalled", "reason": "Redis is away"}],
        "replicas": [replica],
    }
    assert told(asked("status"), fleet) == [
        "redis    redis:6379  up              0.4 ms",
        "relay    r-1         ready           4 partitions, 3 records behind",
        "relay    r-2         silent for 9 s  Redis is away",
        "gateway  host-1      ready           42 connections, port 80",
    ]
    away = {"redis": {"up": False, "ms": None, "error": "refused", "address": "a"}, "relays": [], "replicas": []}
    assert told(asked("status"), away) == ["redis  a  away  refused"]


def said_of(answer: bytes, status: int, capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """What the command says when `answer` comes from where it asks; it is not what a replica answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/event-stream" if answer.startswith(b"data: ") else "text/plain")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            assert run(asked(*command, "--url", url), settings()) == 1
        finally:
            server.shutdown()
            serving.join()
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith(f"gateway: what answers at {url} is not a replica's admin port (")
    return line


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (500, b'["x"]'),
        (500, b'"x"'),
        (404, b"{}"),
        (404, b'{"error":"x"}'),
        (403, b'{"error":["x"],"message":{}}'),
        (200, b'["x"]'),
        (200, b"null"),
        (200, b'{"detail":"x\\ny"}'),
    ],
)
@pytest.mark.parametrize(
    "command",
    [["status"], ["presence", "ann"], ["revoke", "ann"], ["revoke", "ann", "--json"], ["drain"]],
    ids=" ".join,
)
def test_json_that_no_replica_says_is_told_in_one_line(
    status: int, answer: bytes, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"it answered {status}, {answer.decode()!r}" in said_of(answer, status, capsys, *command)


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (["revoke", "ann"], b'{"done":7}'),
        (["presence", "ann"], b'{"replicas":["x"]}'),
        (["presence", "ann"], b'{"replicas":{"x":{"connections":1,"opened_ms":[1e300]}}}'),
        (["presence", "ann"], b'{"replicas":{"x":{"connections":1,"opened_ms":["x"]}}}'),
        (["status"], b'data: ["x"]\n\n'),
        (["status"], b'data: {"redis":{"address":"a","up":true,"error":null,"ms":"x"}}\n\n'),
        (["status"], b'data: {"redis":{"address":"a","up":true,"error":null,"ms":1},"relays":7}\n\n'),
        (["revoke", "ann"], b"[" * 200_000),
        (["revoke", "ann"], b"<html>"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_an_answer_of_another_shape_is_told_in_one_line(
    command: list[str], answer: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(said_of(answer, 200, capsys, *command)) < 400


def test_a_host_without_an_address_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert run(asked("status", "--url", "http://nobody.invalid:1"), settings()) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gateway: nobody answers at http://nobody.invalid:1 (Name or service not known): ")


def test_why_nobody_could_be_asked_is_what_the_system_calls_it() -> None:
    refused = ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 8001)")
    unnamed = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    tls = ssl.SSLError(1, "wrong version number")
    assert [why(error) for error in (refused, unnamed, tls, OSError("Multiple exceptions"))] == [
        "Connection refused",
        "Name or service not known",
        "wrong version number",
        "Multiple exceptions",
    ]
