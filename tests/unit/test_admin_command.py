"""gateway/admin_command.py: what is asked of the admin port, and how its answers are told."""

from typing import Any

import pytest

from gateway import commands
from gateway.admin_command import Call, NotAsked, call_of, origin_of, told
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
