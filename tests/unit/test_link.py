"""The link: against a real server, and against a scripted one that breaks the protocol."""

import asyncio
import contextlib
import dataclasses
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from harness.waiting import eventually

from demo.process import Process
from shared.errors import RedisRefused, RedisUnavailable, SettingsError
from shared.link import Link, RedisAddress

HELLO = b"%1\r\n+server\r\n+scripted\r\n"


class Events:
    """What a link said of its own accord."""

    def __init__(self) -> None:
        self.pushes: list[Sequence[Any]] = []
        self.lost: list[str] = []


async def linked(address: RedisAddress, events: Events | None = None, name: str = "unit") -> Link:
    events = events or Events()
    return await Link.connect(
        address, name=name, timeout_seconds=5, on_push=events.pushes.append, on_lost=events.lost.append
    )


class ScriptedServer:
    """A server that answers HELLO and then does what the script says."""

    def __init__(self, script: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any], hello: bytes) -> None:
        self._script = script
        self._hello = hello
        self._sockets: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> RedisAddress:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return RedisAddress("127.0.0.1", self._server.sockets[0].getsockname()[1])

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await asyncio.wait_for(asyncio.gather(*self._sockets), 10)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._sockets.add(task)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await read_command(reader)
            writer.write(self._hello)
            await self._script(reader, writer)
            await reader.read()
        await closed(writer)


async def closed(writer: asyncio.StreamWriter) -> None:
    """Close a socket and wait until it is."""
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def read_command(reader: asyncio.StreamReader) -> list[bytes]:
    count = int((await reader.readuntil(b"\r\n"))[1:])
    words = []
    for _ in range(count):
        size = int((await reader.readuntil(b"\r\n"))[1:])
        words.append((await reader.readexactly(size + 2))[:-2])
    return words


def scripted(*answers: bytes, hello: bytes = HELLO) -> ScriptedServer:
    """One answer to each command that comes; an empty one says nothing."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await read_command(reader)
            writer.write(answer)

    return ScriptedServer(script, hello)


# Calls


async def test_a_call_gives_its_reply(redis: Link) -> None:
    assert await redis.call("SET", "k", b"\x00\xff\r\n", timeout_seconds=5) == b"OK"
    assert await redis.call("GET", "k", timeout_seconds=5) == b"\x00\xff\r\n"
    assert await redis.call("GET", "missing", timeout_seconds=5) is None
    assert await redis.call("HSET", "h", "é", 1, timeout_seconds=5) == 1
    assert await redis.call("HGETALL", "h", timeout_seconds=5) == {"é".encode(): b"1"}


async def test_a_refusal_is_raised_with_redis_own_text_and_the_link_goes_on(redis: Link) -> None:
    with pytest.raises(RedisRefused, match="unknown command"):
        await redis.call("NONSENSE", timeout_seconds=5)
    assert await redis.call("PING", timeout_seconds=5) == b"PONG"


async def test_a_pipeline_gives_replies_in_order_and_nothing_for_nothing(redis: Link) -> None:
    assert await redis.pipeline([("INCR", "n") for _ in range(100)], timeout_seconds=5) == list(range(1, 101))
    assert await redis.pipeline([], timeout_seconds=5) == []


async def test_a_pipeline_raises_the_first_refusal_and_does_the_rest(redis: Link) -> None:
    with pytest.raises(RedisRefused, match="ONE"):
        await redis.pipeline([("ONE",), ("SET", "after", 1), ("TWO",)], timeout_seconds=5)
    assert await redis.call("GET", "after", timeout_seconds=5) == b"1"


async def test_calls_of_several_tasks_get_their_own_replies(redis: Link) -> None:
    async def echo(number: int) -> bytes:
        return bytes(await redis.call("ECHO", number, timeout_seconds=5))

    assert await asyncio.gather(*(echo(number) for number in range(200))) == [b"%d" % n for n in range(200)]


async def test_a_transaction_gives_the_replies_of_one_moment(redis: Link) -> None:
    replies = await redis.transaction([("SET", "t", 1), ("INCR", "t"), ("GET", "t")], timeout_seconds=5)
    assert replies == [b"OK", 2, b"2"]


@pytest.mark.parametrize("bad", [("NONSENSE",), ("GET",)])
async def test_a_transaction_with_a_command_that_is_none_does_nothing(redis: Link, bad: tuple[str, ...]) -> None:
    with pytest.raises(RedisRefused):
        await redis.transaction([("SET", "t2", 1), bad], timeout_seconds=5)
    assert await redis.call("GET", "t2", timeout_seconds=5) is None


async def test_a_transaction_raises_what_a_command_in_it_was_refused_for(redis: Link) -> None:
    with pytest.raises(RedisRefused, match="WRONGTYPE"):
        await redis.transaction([("SET", "t3", "x"), ("HGETALL", "t3")], timeout_seconds=5)
    assert await redis.call("PING", timeout_seconds=5) == b"PONG"


async def test_no_answer_in_time_ends_the_link_since_replies_could_not_be_told_apart() -> None:
    events = Events()
    async with scripted(b"", b"") as address:
        link = await linked(address, events)
        other = asyncio.ensure_future(link.call("SECOND", timeout_seconds=5))
        await asyncio.sleep(0)
        with pytest.raises(RedisUnavailable, match=r"did not answer within 0\.05 s"):
            await link.call("FIRST", timeout_seconds=0.05)
        with pytest.raises(RedisUnavailable):
            await other
        assert link.is_lost
        assert events.lost == [link.lost_because]


async def test_a_cancelled_call_leaves_the_replies_of_the_others_in_place(redis: Link) -> None:
    calls = [asyncio.ensure_future(redis.call("ECHO", number, timeout_seconds=5)) for number in range(5)]
    await asyncio.sleep(0)
    calls[1].cancel()
    calls[3].cancel()
    replies = await asyncio.gather(*calls, return_exceptions=True)
    assert [replies[0], replies[2], replies[4]] == [b"0", b"2", b"4"]
    assert isinstance(replies[1], asyncio.CancelledError)
    assert not redis.is_lost


async def test_a_cancelled_pipeline_leaves_later_replies_in_place(redis: Link) -> None:
    first = asyncio.ensure_future(redis.pipeline([("ECHO", 1), ("ECHO", 2)], timeout_seconds=5))
    await asyncio.sleep(0)
    first.cancel()
    assert await redis.call("ECHO", 3, timeout_seconds=5) == b"3"
    with pytest.raises(asyncio.CancelledError):
        await first


# Entering


async def test_the_connection_has_its_name_on_the_server(redis: Link, redis_address: RedisAddress) -> None:
    link = await linked(redis_address, name="notification-gateway-live")
    names = await redis.call("CLIENT", "LIST", timeout_seconds=5)
    assert b"name=notification-gateway-live " in bytes(names)
    link.close()


@pytest.mark.parametrize("name", ["my service", "line\nbreak", "naïve", "\x7f", ""])
async def test_a_name_that_redis_does_not_take_is_no_reason_not_to_connect(
    redis_address: RedisAddress, name: str
) -> None:
    link = await linked(redis_address, name=name)
    assert await link.call("PING", timeout_seconds=5) == b"PONG"
    link.close()


async def test_the_database_of_the_address_is_selected(redis: Link, valkey: Process) -> None:
    await redis.call("SET", "where", 0, timeout_seconds=5)
    link = await linked(RedisAddress.from_url(f"redis://127.0.0.1:{valkey.port}/3"))
    assert await link.call("GET", "where", timeout_seconds=5) is None
    link.close()


async def test_users_enter_with_their_password_and_no_other(redis: Link, valkey: Process) -> None:
    await redis.call("ACL", "SETUSER", "ann", "on", ">s3cr@t", "~*", "+@all", timeout_seconds=5)
    good, bad, nobody = (
        RedisAddress.from_url(f"redis://{who}@127.0.0.1:{valkey.port}")
        for who in ("ann:s3cr%40t", "ann:wrong", "nobody:s3cr%40t")
    )
    link = await linked(good)
    assert await link.call("ACL", "WHOAMI", timeout_seconds=5) == b"ann"
    link.close()
    for address in (bad, nobody):
        with pytest.raises(RedisRefused, match="WRONGPASS") as refused:
            await linked(address)
        assert "s3cr" not in str(refused.value)


async def test_nobody_there_is_said_with_the_address() -> None:
    async with scripted() as address:
        pass
    with pytest.raises(RedisUnavailable, match=f"Redis at 127.0.0.1:{address.port} is not reachable"):
        await linked(address)


async def test_a_host_that_is_none_is_said() -> None:
    with pytest.raises(RedisUnavailable, match="not reachable"):
        await linked(RedisAddress("no-such-host.invalid", 6379))


async def test_a_server_that_says_nothing_is_waited_for_only_so_long() -> None:
    async with scripted(hello=b"") as address:
        with pytest.raises(RedisUnavailable):
            await Link.connect(address, name="unit", timeout_seconds=0.05)


async def test_a_server_of_another_protocol_is_said() -> None:
    async with scripted(hello=b"HTTP/1.1 400 Bad Request\r\n\r\n") as address:
        with pytest.raises(RedisUnavailable, match="not RESP"):
            await linked(address)


async def test_a_server_that_closes_at_once_is_said() -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with ScriptedServer(hang_up, b"") as address:
        with pytest.raises(RedisUnavailable):
            await linked(address)


async def test_connecting_may_be_cancelled() -> None:
    async with scripted(hello=b"") as address:
        connecting = asyncio.ensure_future(linked(address))
        await asyncio.sleep(0.01)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting


# Losing


async def test_a_lost_link_says_so_once_and_calls_under_way_fail(redis: Link, redis_address: RedisAddress) -> None:
    events = Events()
    link = await linked(redis_address, events)
    number = await link.call("CLIENT", "ID", timeout_seconds=5)
    under_way = asyncio.ensure_future(link.call("BLPOP", "never", 30, timeout_seconds=40))
    await asyncio.sleep(0)
    await redis.call("CLIENT", "KILL", "ID", number, timeout_seconds=5)
    with pytest.raises(RedisUnavailable, match="is lost"):
        await under_way
    assert len(events.lost) == 1
    link.close()
    assert len(events.lost) == 1
    with pytest.raises(RedisUnavailable, match="is lost"):
        await link.call("PING", timeout_seconds=5)
    with pytest.raises(RedisUnavailable, match="is lost"):
        await link.subscribe(["c"], timeout_seconds=5)
    link.pause_reading()
    link.resume_reading()


async def test_closing_is_losing(redis_address: RedisAddress) -> None:
    events = Events()
    link = await linked(redis_address, events)
    under_way = asyncio.ensure_future(link.call("PING", timeout_seconds=5))
    await asyncio.sleep(0)
    link.close()
    link.close()
    assert events.lost == ["closed by us"]
    with pytest.raises(RedisUnavailable, match="closed by us"):
        await under_way


@pytest.mark.parametrize("garbage", [b"what?\r\n", b"$-7\r\n", b":x\r\n", b"\x00\x00\x00"])
async def test_garbage_ends_the_link(garbage: bytes) -> None:
    events = Events()
    async with scripted(garbage) as address:
        link = await linked(address, events)
        with pytest.raises(RedisUnavailable, match="not RESP"):
            await link.call("PING", timeout_seconds=5)
        assert len(events.lost) == 1


async def test_a_reply_that_nothing_asked_for_ends_the_link() -> None:
    events = Events()
    async with scripted(b"+OK\r\n+OK\r\n") as address:
        link = await linked(address, events)
        assert await link.call("PING", timeout_seconds=5) == b"OK"
        await eventually(lambda: link.is_lost, "the link to be lost")
        assert events.lost == ["a reply that nothing asked for"]


async def test_replies_may_come_in_any_pieces() -> None:
    answer = b"*2\r\n$5\r\nhello\r\n%1\r\n+a\r\n:1\r\n"

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_command(reader)
        for at in range(len(answer)):
            writer.write(answer[at : at + 1])
            await writer.drain()
            await asyncio.sleep(0)

    async with ScriptedServer(script, HELLO) as address:
        link = await linked(address)
        assert await link.call("X", timeout_seconds=5) == [b"hello", {b"a": 1}]
        link.close()


# Subscriptions


async def test_a_subscription_is_confirmed_and_its_messages_come_as_they_were_sent(
    redis: Link, redis_address: RedisAddress
) -> None:
    events = Events()
    link = await linked(redis_address, events)
    channels = [f"{{u}}:{number}" for number in range(20)]
    await link.subscribe(channels, timeout_seconds=5)
    for channel in channels:
        assert await redis.call("SPUBLISH", channel, b"\x00" + channel.encode(), timeout_seconds=5) == 1
    await eventually(lambda: len(events.pushes) == 20, "20 messages")
    assert events.pushes == [[b"smessage", channel.encode(), b"\x00" + channel.encode()] for channel in channels]
    await link.unsubscribe(channels[:10], timeout_seconds=5)
    assert await redis.call("SPUBLISH", channels[0], "x", timeout_seconds=5) == 0
    assert await redis.call("SPUBLISH", channels[10], "x", timeout_seconds=5) == 1
    assert await link.call("PING", timeout_seconds=5) == b"PONG"
    link.close()


async def test_subscribing_to_nothing_needs_no_server() -> None:
    async with scripted() as address:
        link = await linked(address)
        await link.subscribe([], timeout_seconds=0.001)
        await link.unsubscribe([], timeout_seconds=0.001)
        link.close()


async def test_a_channel_may_be_named_twice(redis_address: RedisAddress) -> None:
    link = await linked(redis_address)
    await link.subscribe(["{u}:a", "{u}:b", "{u}:a"], timeout_seconds=5)
    await link.unsubscribe(["{u}:a", "{u}:a", "{u}:never"], timeout_seconds=5)
    assert await link.call("PING", timeout_seconds=5) == b"PONG"
    link.close()


async def test_commands_and_subscriptions_under_way_together_are_told_apart(redis_address: RedisAddress) -> None:
    link = await linked(redis_address)
    results = await asyncio.gather(
        link.call("ECHO", 1, timeout_seconds=5),
        link.subscribe(["{u}:a", "{u}:b"], timeout_seconds=5),
        link.pipeline([("ECHO", 2), ("ECHO", 3)], timeout_seconds=5),
        link.unsubscribe(["{u}:a"], timeout_seconds=5),
        link.call("ECHO", 4, timeout_seconds=5),
    )
    assert results == [b"1", None, [b"2", b"3"], None, b"4"]
    link.close()


async def test_messages_come_in_their_place_among_replies(redis: Link, redis_address: RedisAddress) -> None:
    """What was read after a subscription was confirmed can be placed among its messages."""
    events = Events()
    link = await linked(redis_address, events)
    await link.subscribe(["{u}:c"], timeout_seconds=5)
    for number in range(1, 50):
        await redis.pipeline([("SET", "{u}:n", number), ("SPUBLISH", "{u}:c", number)], timeout_seconds=5)
        read = int(await link.call("GET", "{u}:n", timeout_seconds=5))
        assert events.pushes[-1][2] == b"%d" % read
    link.close()


async def test_a_subscription_that_is_refused_raises(redis: Link, valkey: Process) -> None:
    await redis.call("ACL", "SETUSER", "deaf", "on", "nopass", "~*", "+@all", "resetchannels", "&allowed",
                     timeout_seconds=5)  # fmt: skip
    link = await linked(RedisAddress.from_url(f"redis://deaf:x@127.0.0.1:{valkey.port}"))
    with pytest.raises(RedisRefused, match="NOPERM"):
        await link.subscribe(["allowed", "forbidden"], timeout_seconds=5)
    await link.subscribe(["allowed"], timeout_seconds=5)
    assert await link.call("PING", timeout_seconds=5) == b"PONG"
    link.close()


async def test_a_subscription_that_is_never_confirmed_ends_the_link() -> None:
    async with scripted(b">3\r\n$10\r\nssubscribe\r\n$1\r\na\r\n:1\r\n") as address:
        link = await linked(address)
        with pytest.raises(RedisUnavailable, match="did not answer"):
            await link.subscribe(["a", "b"], timeout_seconds=0.05)
        assert link.is_lost


def push(kind: str, channel: str, count: int = 0) -> bytes:
    return f">3\r\n${len(kind)}\r\n{kind}\r\n${len(channel)}\r\n{channel}\r\n:{count}\r\n".encode()


async def test_an_unasked_unsubscription_is_handed_on() -> None:
    events = Events()
    async with scripted(push("ssubscribe", "a", 1) + push("sunsubscribe", "a")) as address:
        link = await linked(address, events)
        await link.subscribe(["a"], timeout_seconds=5)
        await eventually(lambda: bool(events.pushes), "the push")
        assert events.pushes == [[b"sunsubscribe", b"a", 0]]
        link.close()


async def test_an_unasked_unsubscription_is_not_taken_for_a_confirmation() -> None:
    """A slot moves away while another stream of it is being subscribed."""
    events = Events()
    answer = push("sunsubscribe", "old") + push("ssubscribe", "a", 1) + push("ssubscribe", "b", 2)
    async with scripted(answer) as address:
        link = await linked(address, events)
        await link.subscribe(["a", "b"], timeout_seconds=5)
        assert events.pushes == [[b"sunsubscribe", b"old", 0]]
        link.close()


async def test_an_unasked_unsubscription_is_not_taken_for_one_that_was_asked_for() -> None:
    events = Events()
    async with scripted(push("sunsubscribe", "kept") + push("sunsubscribe", "a")) as address:
        link = await linked(address, events)
        await link.unsubscribe(["a"], timeout_seconds=5)
        assert events.pushes == [[b"sunsubscribe", b"kept", 0]]
        link.close()


async def test_a_plain_reply_where_a_confirmation_is_due_ends_the_link() -> None:
    async with scripted(b"+OK\r\n") as address:
        link = await linked(address)
        with pytest.raises(RedisUnavailable):
            await link.subscribe(["a"], timeout_seconds=5)


async def test_reading_can_be_paused(redis: Link, redis_address: RedisAddress) -> None:
    events = Events()
    link = await linked(redis_address, events)
    await link.subscribe(["{u}:p"], timeout_seconds=5)
    link.pause_reading()
    link.pause_reading()
    await redis.call("SPUBLISH", "{u}:p", "x", timeout_seconds=5)
    await redis.call("PING", timeout_seconds=5)
    assert events.pushes == []
    link.resume_reading()
    link.resume_reading()
    await eventually(lambda: len(events.pushes) == 1, "the message")
    link.close()


# Addresses


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", RedisAddress("localhost", 6379)),
        ("redis://redis:6380/2", RedisAddress("redis", 6380, database=2)),
        ("redis://:p%40ss@h", RedisAddress("h", 6379, password="p@ss")),
        ("redis://ann:pw@h/1", RedisAddress("h", 6379, "ann", "pw", 1)),
        ("redis://[::1]:7000", RedisAddress("::1", 7000)),
        ("redis://h?db=4", RedisAddress("h", 6379, database=4)),
        ("unix:///run/redis.sock", RedisAddress("localhost", 6379, path="/run/redis.sock")),
        ("unix://ann:pw@/run/redis.sock?db=2", RedisAddress("localhost", 6379, "ann", "pw", 2, path="/run/redis.sock")),
    ],
)
def test_an_address_is_read_from_a_url(url: str, expected: RedisAddress) -> None:
    assert RedisAddress.from_url(url) == expected


def test_tls_checks_certificates_unless_told_otherwise() -> None:
    tls = RedisAddress.from_url("rediss://h:6380").tls
    assert tls is not None
    assert tls.verify_mode is ssl.CERT_REQUIRED
    assert tls.check_hostname
    lenient = RedisAddress.from_url("rediss://h:6380?ssl_cert_reqs=none").tls
    assert lenient is not None
    assert lenient.verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize(
    "url",
    ["", "localhost:6379", "http://h", "redis://h:port", "redis://h:99999", "rediss://h?ssl_ca_certs=/no/such/file",
     "rediss://h?ssl_cert_reqs=sometimes", "redis://ann:s3cret@h:99999", "redis://h?db=x"],
)  # fmt: skip
def test_what_is_no_address_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(SettingsError, match="REDIS_URL") as refused:
        RedisAddress.from_url(url)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("url", ["redis://h:7000/s3cret", "redis://h/1/2", "rediss://h/-1", "redis://h/1%20"])
def test_a_database_that_is_no_number_is_refused_and_not_taken_as_0(url: str) -> None:
    with pytest.raises(SettingsError, match="no database's number") as raised:
        RedisAddress.from_url(url)
    assert "s3cret" not in str(raised.value)  # it may be half a password


def test_port_0_is_refused_and_not_taken_as_6379() -> None:
    with pytest.raises(SettingsError, match="port 0"):
        RedisAddress.from_url("redis://h:0")


def test_an_address_never_shows_its_password() -> None:
    address = RedisAddress.from_url("redis://ann:s3cret@h:7000/1")
    assert str(address) == "h:7000"
    assert "s3cret" not in repr(address)
    assert str(RedisAddress.from_url("unix:///run/redis.sock")) == "/run/redis.sock"


@pytest.fixture
async def unix_address(valkey: Process) -> AsyncIterator[RedisAddress]:
    """The real server behind a socket in the file system."""
    sockets: set[asyncio.Task[Any]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
        await closed(writer)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        sockets.add(task)
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", valkey.port)
        await asyncio.gather(copy(reader, upstream_writer), copy(upstream_reader, writer))

    with tempfile.TemporaryDirectory() as folder:  # tmp_path may be longer than a socket's name may be
        path = f"{folder}/redis.sock"
        server = await asyncio.start_unix_server(serve, path)
        yield RedisAddress("localhost", 6379, path=path)
        server.close()
        await asyncio.wait_for(asyncio.gather(*sockets), 10)
        await server.wait_closed()


async def test_a_unix_socket_will_do(unix_address: RedisAddress) -> None:
    link = await linked(unix_address)
    assert await link.call("PING", timeout_seconds=5) == b"PONG"
    link.close()


async def test_a_server_that_repeats_the_password_is_not_repeated() -> None:
    """One that knows no HELLO (Redis 5, some proxies) answers with what it got."""
    for error in (
        b"-ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `ann`, `s3cr",
        b"-ERR s3cret?",
    ):
        async with scripted(hello=error + b"\r\n") as server:
            address = RedisAddress(server.host, server.port, "ann", "s3cret")
            with pytest.raises(RedisRefused) as refused:
                await linked(address)
            assert f"Redis at {server} does not let in 'ann': ERR" in str(refused.value)
            assert "s3cr" not in str(refused.value)


async def test_a_server_that_wants_a_password_is_said_to(redis: Link, valkey: Process) -> None:
    await redis.call("ACL", "SETUSER", "default", "resetpass", ">pw", timeout_seconds=5)
    try:
        with pytest.raises(RedisRefused, match=r"does not let in the default user: NOAUTH.*a user and a password in"):
            await linked(RedisAddress("127.0.0.1", valkey.port))
    finally:
        await redis.call("ACL", "SETUSER", "default", "nopass", timeout_seconds=5)


async def test_what_the_acl_forbids_is_said_with_what_to_do(redis: Link, redis_address: RedisAddress) -> None:
    await redis.call("ACL", "SETUSER", "bob", "on", ">pw", "~*", "+eval", timeout_seconds=5)
    link = await linked(dataclasses.replace(redis_address, username="bob", password="pw"))
    for command in (("FLUSHALL",), ("EVAL", "return redis.call('SET', KEYS[1], 'x')", 1, "k")):
        with pytest.raises(RedisRefused, match=r"'?(flushall|set)'? command.* deploy/redis"):
            await link.call(*command, timeout_seconds=5)
    link.close()
