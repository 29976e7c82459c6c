"""One connection to Redis that never reconnects, retries or subscribes again by itself.

Whoever must know that a subscription had a hole, or that a batch may or may not have been written,
cannot use a client that mends a lost connection silently. So: a lost link is lost, says so once,
and its owner makes another. Commands go out in the order of the calls and may be pipelined; replies
and pushed messages come in the order Redis sent them, on one connection (RESP3), so that what was
read after a subscription was confirmed can be placed among its live messages.
"""

import asyncio
import re
import ssl
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast
from urllib.parse import urlsplit

import hiredis
from redis.asyncio.connection import SSLConnection, parse_url
from redis.exceptions import RedisError as RedisPyError

from shared.errors import RedisRefused, RedisUnavailable, SettingsError
from shared.tls import Names, client_context, load_identity

Command = tuple[bytes | str | int, ...]
Reply = Any
PushHandler = Callable[[Sequence[Any]], None]

_ANOTHERS: Final = ("MOVED ", "CLUSTERDOWN ", "READONLY ", "MASTERDOWN ")
"""How an error reply begins that a server gives which is not, or no longer, the one to be asked."""

_NOT_IN_A_NAME: Final = re.compile(r"[^!-~]")
"""What Redis refuses in the name of a connection: white space, and all that is not ASCII."""

_DATABASE: Final = re.compile(r"/?[0-9]*/?")

_TLS_OPTIONS: Final = (
    "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_password", "ssl_cert_reqs", "ssl_check_hostname"
)  # fmt: skip
"""Those of redis-py that are taken here, with its meaning."""

_ADVICE: Final = {
    "WRONGPASS ": "see that REDIS_URL has this server's user and password",
    "NOAUTH ": "this server wants a user and a password in REDIS_URL",
    "NOPERM ": "see that the ACL of its user is the one that deploy/redis makes",
    "ERR ACL failure in script": "see that the ACL of its user is the one that deploy/redis makes",
    "ERR The user executing the script": "see that the ACL of its user is the one that deploy/redis makes",
}
"""What to do about an error reply that begins so."""


@dataclass(frozen=True)
class RedisAddress:
    """Where a Redis is and how to enter it. Made by `from_url`; holds the password."""

    host: str
    port: int
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    path: str | None = None

    @classmethod
    def from_url(cls, url: str) -> "RedisAddress":
        """Read `redis://`, `rediss://` (its TLS options named as redis-py's, certificates checked
        by default) or `unix://`. Raises SettingsError, without the URL, which holds a password."""
        try:
            options: dict[str, Any] = dict(parse_url(url))
            split = urlsplit(url)
            port = split.port  # raises on one that is out of range
        except (ValueError, TypeError, RedisPyError) as error:
            raise SettingsError(f"REDIS_URL is not a Redis URL: {type(error).__name__}") from None
        is_tls = options.pop("connection_class", None) is SSLConnection
        tls_options = {name: value for name, value in options.items() if name.startswith("ssl_")}
        if tls_options and not is_tls:
            raise SettingsError(f"REDIS_URL has {min(tls_options)}, which goes with rediss:// only")
        # parse_url takes both as none.
        if port == 0:
            raise SettingsError("REDIS_URL has port 0")
        if split.scheme != "unix" and not _DATABASE.fullmatch(split.path):
            raise SettingsError("REDIS_URL has no database's number where one belongs")
        return cls(
            host=options.get("host") or "localhost",
            port=port or 6379,
            username=options.get("username"),
            password=options.get("password"),
            database=options.get("db") or 0,
            tls=_tls_context(tls_options) if is_tls else None,
            path=options.get("path"),
        )

    def __str__(self) -> str:
        """For logs: host and port, never the password."""
        return self.path or f"{self.host}:{self.port}"


def _tls_context(options: dict[str, Any]) -> ssl.SSLContext:
    """Raises SettingsError, which names the option, or the file."""
    if unknown := sorted(options.keys() - set(_TLS_OPTIONS)):
        raise SettingsError(f"REDIS_URL has {unknown[0]}; takes {', '.join(_TLS_OPTIONS)}")
    context = client_context(options.get("ssl_ca_certs"), "REDIS_URL's ssl_ca_certs")
    checks = options.get("ssl_cert_reqs", "required")
    if checks not in ("required", "none"):
        raise SettingsError("REDIS_URL's ssl_cert_reqs takes required or none")
    context.check_hostname = checks == "required" and options.get("ssl_check_hostname", True)
    if checks == "none":
        context.verify_mode = ssl.CERT_NONE
    cert_file, key_file = options.get("ssl_certfile"), options.get("ssl_keyfile")
    if cert_file is not None:
        names = Names("REDIS_URL's ssl_certfile", "REDIS_URL's ssl_keyfile", "REDIS_URL's ssl_password")
        load_identity(context, cert_file, key_file, options.get("ssl_password"), names)
    elif key_file is not None:
        raise SettingsError("REDIS_URL has ssl_keyfile without ssl_certfile")
    return context


class _Expected:
    """What the next replies belong to: one command's reply, or a subscription's confirmations.

    `channels` are those still to be confirmed by a push of `kind`. One of another kind or channel
    is no confirmation: a slot may move away while others are being subscribed.
    """

    __slots__ = ("channels", "future", "kind")

    def __init__(self, future: asyncio.Future[Reply], kind: bytes = b"", channels: Iterable[str] = ()) -> None:
        self.future = future
        self.kind = kind
        self.channels = {channel.encode() for channel in channels}


class Link(asyncio.Protocol):
    """A connection to one Redis server. Made by `connect`; every method is for its event loop.

    `on_push` gets each message of a subscription as Redis sent it, `[b"smessage", channel,
    payload]`, and an unasked `[b"sunsubscribe", channel, count]`; it is called from the socket's
    own turn and must neither block nor raise. `on_lost` is called once, with the reason, when the
    link is gone for whatever cause, `close()` included; calls under way have failed by then.
    """

    def __init__(self, address: RedisAddress, on_push: PushHandler | None, on_lost: Callable[[str], None] | None):
        self.address = address
        self._on_push = on_push
        self._on_lost = on_lost
        self._reader = hiredis.Reader()
        self._expected: deque[_Expected] = deque()
        self._transport: asyncio.Transport | None = None
        self._lost_because: str | None = None
        self.is_displaced = False
        """It has refused something since another server is to be asked: MOVED, READONLY ..."""

    @classmethod
    async def connect(
        cls,
        address: RedisAddress,
        *,
        name: str,
        timeout_seconds: float,
        on_push: PushHandler | None = None,
        on_lost: Callable[[str], None] | None = None,
    ) -> "Link":
        """Connect, enter (HELLO 3 with AUTH, SELECT) and call the connection `name`, with `-` for
        the characters that Redis does not take in one.

        Raises RedisUnavailable or RedisRefused; `on_lost` is not called for a link never made.
        """
        loop = asyncio.get_running_loop()
        link = cls(address, on_push, None)
        try:
            async with asyncio.timeout(timeout_seconds):
                if address.path is not None:
                    await loop.create_unix_connection(lambda: link, address.path)
                else:
                    await loop.create_connection(
                        lambda: link,
                        address.host,
                        address.port,
                        ssl=address.tls,
                        server_hostname=address.host if address.tls else None,
                    )
                hello: Command = ("HELLO", 3)
                if address.password is not None:
                    hello += ("AUTH", address.username or "default", address.password)
                hello += ("SETNAME", _NOT_IN_A_NAME.sub("-", name))
                await link._enter(hello, timeout_seconds)
                if address.database:
                    await link.call("SELECT", address.database, timeout_seconds=timeout_seconds)
        except (OSError, TimeoutError) as error:
            link.close()
            reason = _why_not_reachable(error, address)
            raise RedisUnavailable(f"Redis at {address} is not reachable: {reason}") from None
        except BaseException:
            link.close()
            raise
        link._on_lost = on_lost
        if link._lost_because is not None:
            raise RedisUnavailable(f"Redis at {address} closed the link: {link._lost_because}")
        return link

    async def _enter(self, hello: Command, timeout_seconds: float) -> None:
        """Raises RedisRefused without the password: a server that knows no HELLO repeats what it got."""
        try:
            await self.call(*hello, timeout_seconds=timeout_seconds)
        except RedisRefused as error:
            text = str(error).partition(", with args")[0]
            if self.address.password:
                text = text.replace(self.address.password, "***")
            who = "the default user" if self.address.username is None else repr(self.address.username)
            raise RedisRefused(f"Redis at {self.address} does not let in {who}: {text}") from None

    @property
    def is_lost(self) -> bool:
        return self._lost_because is not None

    @property
    def lost_because(self) -> str | None:
        """Why the link is lost; None while it is not."""
        return self._lost_because

    async def call(self, *command: bytes | str | int, timeout_seconds: float) -> Reply:
        """Send one command and give its reply.

        Raises RedisRefused for an error reply. When no answer comes in time the link is closed,
        since its replies could no longer be told apart, and RedisUnavailable is raised.
        """
        return (await self.pipeline((command,), timeout_seconds=timeout_seconds))[0]

    async def pipeline(self, commands: Iterable[Command], *, timeout_seconds: float) -> list[Reply]:
        """Send commands in one write and give their replies in order.

        Not atomic. Raises RedisRefused for the first error reply, RedisUnavailable like `call`.
        """
        futures = self._send(commands)
        return [_checked(reply) for reply in await self._gather(futures, timeout_seconds)]

    async def each(self, commands: Iterable[Command], *, timeout_seconds: float) -> list[Reply | RedisRefused]:
        """Like `pipeline`, but an error reply is given in its place, as the RedisRefused it stands for."""
        replies = await self._gather(self._send(commands), timeout_seconds)
        return [_in_place(reply) for reply in replies]

    async def transaction(self, commands: Sequence[Command], *, timeout_seconds: float) -> list[Reply]:
        """Run commands as one MULTI/EXEC: all see the same moment. Raises like `pipeline`."""
        replies = await self.snapshot(commands, timeout_seconds=timeout_seconds)
        for reply in replies:
            if isinstance(reply, RedisRefused):
                raise reply
        return replies

    async def snapshot(self, commands: Sequence[Command], *, timeout_seconds: float) -> list[Reply | RedisRefused]:
        """Like `transaction`, but the error of a command that failed in it is given in its place.

        Raises RedisRefused when nothing was run, for example for MOVED.
        """
        replies = await self._gather(self._send((("MULTI",), *commands, ("EXEC",))), timeout_seconds)
        for reply in replies:
            _checked(reply)
        return [_in_place(reply) for reply in replies[-1]]

    async def subscribe(self, channels: Sequence[str], *, timeout_seconds: float) -> None:
        """SSUBSCRIBE to channels (of one slot, on a cluster) and wait until each was confirmed."""
        await self._subscription("SSUBSCRIBE", channels, timeout_seconds)

    async def unsubscribe(self, channels: Sequence[str], *, timeout_seconds: float) -> None:
        """SUNSUBSCRIBE from channels and wait until each was confirmed."""
        await self._subscription("SUNSUBSCRIBE", channels, timeout_seconds)

    def pause_reading(self) -> None:
        """Read nothing more from the socket until `resume_reading`."""
        if self._transport is not None and self._lost_because is None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and self._lost_because is None:
            self._transport.resume_reading()

    def close(self) -> None:
        """Close the link now. Calls under way fail with RedisUnavailable. May be called twice."""
        self._lose("closed by us")

    async def _subscription(self, verb: str, channels: Sequence[str], timeout_seconds: float) -> None:
        if not channels:
            return
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        expected = _Expected(future, verb.lower().encode(), channels)
        self._write(_packed((verb, *expected.channels)))
        self._expected.append(expected)
        for reply in await self._gather([future], timeout_seconds):
            _checked(reply)

    def _send(self, commands: Iterable[Command]) -> list[asyncio.Future[Reply]]:
        loop = asyncio.get_running_loop()
        packed = [_packed(command) for command in commands]
        self._write(b"".join(packed))
        futures: list[asyncio.Future[Reply]] = [loop.create_future() for _ in packed]
        self._expected.extend(_Expected(future) for future in futures)
        return futures

    def _write(self, data: bytes) -> None:
        if self._lost_because is not None or self._transport is None:
            raise RedisUnavailable(f"the link to Redis at {self.address} is lost: {self._lost_because}")
        self._transport.write(data)

    async def _gather(self, futures: Sequence[asyncio.Future[Reply]], timeout_seconds: float) -> list[Reply]:
        try:
            async with asyncio.timeout(timeout_seconds):
                return [await future for future in futures]
        except TimeoutError:
            self._lose(f"no answer within {timeout_seconds:g} s")
            raise RedisUnavailable(f"Redis at {self.address} did not answer within {timeout_seconds:g} s") from None
        finally:
            # Ours alone: nobody else waits for them, and an unread exception would be reported.
            for future in futures:
                if not future.cancel() and not future.cancelled():
                    future.exception()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own is no subclass of it
        if self._lost_because is not None:  # closed while it was being made
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                if isinstance(reply, hiredis.PushNotification):
                    self._pushed(reply)
                else:
                    self._replied(reply)
        except hiredis.ProtocolError as error:
            self._lose(f"not RESP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(str(exc) if exc else "closed by Redis")

    def _pushed(self, push: Sequence[Any]) -> None:
        expected = self._expected[0] if self._expected else None
        if expected is not None and push[0] == expected.kind and push[1] in expected.channels:
            expected.channels.discard(push[1])
            if not expected.channels:
                self._expected.popleft()
                _settle(expected.future, None)
        elif self._on_push is not None:
            self._on_push(push)

    def _replied(self, reply: Reply) -> None:
        if not self._expected:
            self._lose("a reply that nothing asked for")
            return
        if self._expected[0].channels and not isinstance(reply, hiredis.ReplyError):
            self._lose("a reply where a subscription was to be confirmed")
            return
        if isinstance(reply, hiredis.ReplyError) and str(reply).startswith(_ANOTHERS):
            self.is_displaced = True
        # An error where confirmations are due is the refusal of that subscription.
        _settle(self._expected.popleft().future, reply)

    def _lose(self, reason: str) -> None:
        if self._lost_because is not None:
            return
        self._lost_because = reason
        if self._transport is not None:
            self._transport.abort()
        error = RedisUnavailable(f"the link to Redis at {self.address} is lost: {reason}")
        while self._expected:
            future = self._expected.popleft().future
            if not future.done():
                future.set_exception(error)
        if self._on_lost is not None:
            self._on_lost(reason)


def _packed(command: Command) -> bytes:
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub says 1-tuple
    return packed


def _settle(future: asyncio.Future[Reply], reply: Reply) -> None:
    if not future.done():
        future.set_result(reply)


def _checked(reply: Reply) -> Reply:
    if isinstance(reply, hiredis.ReplyError):
        raise _refused(reply)
    return reply


def _in_place(reply: Reply) -> Reply | RedisRefused:
    return _refused(reply) if isinstance(reply, hiredis.ReplyError) else reply


def _refused(reply: hiredis.ReplyError) -> RedisRefused:
    text = str(reply)
    advice = next((advice for beginning, advice in _ADVICE.items() if text.startswith(beginning)), None)
    return RedisRefused(f"{text} ({advice})" if advice else text)


def _why_not_reachable(error: Exception, address: RedisAddress) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is refused: {error.verify_message} (see that REDIS_URL has the certificate's host "
            "name, and in ssl_ca_certs the file of its authority)"
        )
    reason = getattr(error, "reason", None) or str(error) or "no answer in time"
    # A server that speaks none takes the first bytes of TLS for half a command, and waits for the rest.
    is_tls = isinstance(error, ssl.SSLError | TimeoutError | ConnectionResetError) and address.tls is not None
    return f"{reason} (see that it speaks TLS on this port)" if is_tls else reason
