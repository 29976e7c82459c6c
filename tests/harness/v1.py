"""Clients that can prove what they got: of notify.v1, and of event streams (Server-Sent Events).

Both may drop at any moment and resume on any replica. A client of notify.v1 does what the contract
asks of one, and no more: it takes as its cursor what it is told last of each stream, and drops what
it knows only of a stream for which it was told to resync.
"""

import asyncio
import contextlib
import itertools
import json
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from harness.clients import Client, finish
from harness.oracle import Oracle
from harness.waiting import eventually
from shared.message import BROADCAST_TOPICS

_OPEN_SECONDS = 15.0
_WITH_ID = rb'\{"type":"([a-z_]+)","data":(\{.*\}),"id":"([a-z-]+)(?:~([0-9]+))?/([0-9]+)/([0-9]+)",'
_V1_EVENT = re.compile(
    _WITH_ID
    + rb'"stream":"(global|user)","epoch":"([0-9a-z]+-?)","seq":([1-9][0-9]*),"ts":([0-9]+)(,"snapshot":true)?\}',
    re.DOTALL,
)
_STREAMED_EVENT = re.compile(_WITH_ID + rb'"ts":([0-9]+)\}', re.DOTALL)
Source = tuple[str, int, int]
"""Topic, generation, partition."""
STREAMS = ("global", "user")
Control = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where a client is in a stream: all up to `seq` was had. Nobody can resume from an epoch that
    ends with `-`."""

    epoch: str
    seq: int

    @property
    def is_good(self) -> bool:
        return not self.epoch.endswith("-")


@dataclass(frozen=True)
class StreamedEvent:
    """An event that says which record it is from, as event streams have it."""

    type: bytes
    data: bytes
    source: Source
    offset: int
    ts_ms: int

    @property
    def as_plain(self) -> bytes:
        return b'{"type":"%s","data":%s}' % (self.type, self.data)


@dataclass(frozen=True)
class V1Event(StreamedEvent):
    """An event frame of notify.v1, read: it has a place, too."""

    stream: str
    place: Place
    is_snapshot: bool


def _source(topic: bytes, generation: bytes | None, partition: bytes) -> Source:
    return topic.decode(), int(generation or 1), int(partition)


def parse_streamed(data: bytes) -> StreamedEvent:
    """The `data` of an event stream's event. Raises AssertionError for what is none."""
    match = _STREAMED_EVENT.fullmatch(data)
    assert match is not None, f"no event of an event stream: {data[:300]!r}"
    type_, payload, topic, generation, partition, offset, ts = match.groups()
    return StreamedEvent(type_, payload, _source(topic, generation, partition), int(offset), int(ts))


def parse_event(frame: bytes) -> V1Event:
    """Raises AssertionError for what is no event frame."""
    match = _V1_EVENT.fullmatch(frame)
    assert match is not None, f"no event of notify.v1: {frame[:300]!r}"
    type_, data, topic, generation, partition, offset, stream, epoch, seq, ts, snapshot = match.groups()
    place = Place(epoch.decode(), int(seq))
    source = _source(topic, generation, partition)
    return V1Event(type_, data, source, int(offset), int(ts), stream.decode(), place, snapshot is not None)


@dataclass
class Knowledge:
    """What a client of notify.v1 knows, over all its connections; `take` frames as they come.

    `wrong` says what the server did that it must not: seqs with holes, places that go back.
    """

    is_filtered: bool = False
    cursor: dict[str, Place] = field(default_factory=dict)
    highest: dict[tuple[str, Source], int] = field(default_factory=dict)
    events: list[V1Event] = field(default_factory=list)
    """Those it did not know already."""
    snapshot: list[V1Event] = field(default_factory=list)
    controls: list[Control] = field(default_factory=list)
    frames: list[V1Event | Control] = field(default_factory=list)
    """Everything, as it came."""
    known: int = 0
    """Events that it dropped, since it was told to resync."""
    wrong: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """Messages by stream that it was told are dropped for a newer one, and that it did not come to yet."""
    _resynced: set[str] = field(default_factory=set)
    _expects: dict[str, Place | None] = field(default_factory=dict)

    @property
    def welcomes(self) -> list[Control]:
        return self.said("welcome")

    def said(self, control: str) -> list[Control]:
        return [one for one in self.controls if one["control"] == control]

    @property
    def has_come_to_the_present(self) -> bool:
        """Since the last welcome; a heartbeat follows a replay."""
        told = (one["control"] for one in reversed(self.controls))
        return next((one for one in told if one in ("welcome", "heartbeat")), None) == "heartbeat"

    @property
    def cursor_text(self) -> str:
        return "{}.{}.{}.{}".format(*itertools.chain(*((self.cursor[s].epoch, self.cursor[s].seq) for s in STREAMS)))

    def connects(self) -> None:
        """A connection begins; its first frame is a welcome."""
        self._expects = {}
        self.left_out.clear()

    def take(self, frame: bytes) -> None:
        if frame.startswith(b'{"control":'):
            self._take_control(json.loads(frame))
        else:
            self._take_event(parse_event(frame))

    def _take_control(self, control: Control) -> None:
        self.controls.append(control)
        self.frames.append(control)
        if control["control"] == "conflated":
            self.left_out[control["stream"]] += control["dropped"]
        if control["control"] == "resync":
            self._resynced.add(control["stream"])
            self._expects[control["stream"]] = None
        if control["control"] not in ("welcome", "heartbeat"):
            return
        for stream in STREAMS:
            if stream in control:
                place = Place(control[stream]["epoch"], control[stream]["seq"])
                if control["control"] == "heartbeat":
                    self._check_top(stream, place)
                self.cursor[stream] = self._expects[stream] = place

    def _take_event(self, event: V1Event) -> None:
        self.frames.append(event)
        if not self.controls:
            self.wrong.append("an event came before the welcome")
        if event.is_snapshot:
            self.snapshot.append(event)
            return
        stream, before = event.stream, self._expects.get(event.stream)
        if (
            before is not None
            and (before.epoch == event.place.epoch and before.is_good)
            and not self._may_follow(stream, before.seq, event.place.seq - 1)
        ):
            self.wrong.append(f"{stream}: {event.place} after {before}")
        self.cursor[stream] = self._expects[stream] = event.place
        highest = self.highest.get((stream, event.source), -1)
        if stream in self._resynced and event.offset <= highest:
            self.known += 1
            return
        self.highest[stream, event.source] = max(highest, event.offset)
        self.events.append(event)

    def _may_follow(self, stream: str, had_seq: int, up_to_seq: int) -> bool:
        """Whether what is between is not for this client, or it was told that it is left out."""
        if self.is_filtered or up_to_seq < had_seq:
            return up_to_seq >= had_seq
        self.left_out[stream] -= up_to_seq - had_seq
        return self.left_out[stream] >= 0

    def _check_top(self, stream: str, top: Place) -> None:
        before = self._expects.get(stream)
        if not top.is_good:
            self.wrong.append(f"{stream}: a heartbeat speaks of {top}, which is no proof")
        if before is None or before.epoch != top.epoch:
            return
        if not self._may_follow(stream, before.seq, top.seq):
            self.wrong.append(f"{stream}: a heartbeat speaks of {top}, after {before}")


def check_ids(client: Client, events: Iterable[StreamedEvent], oracle: Oracle) -> None:
    """Each says the record that it is from."""
    by_source = {(event.source, event.offset): event for event in oracle.events}
    for got in events:
        published = by_source.get((got.source, got.offset))
        assert published is not None, f"{client}: no such id: {got}"
        assert (got.type.decode(), got.data) == (published.type, published.data), f"{client}: another's id: {got}"
        assert got.ts_ms > 0, got


class V1Client(Client):
    """A client of notify.v1. `frames` are its events as plain frames; `knowledge` is the rest.

    `query` are options beside user_id and cursor. `open` resumes from where it is, once it has been
    anywhere; `drop` ends the TCP connection without a word.
    """

    library = "notify.v1 client"

    def __init__(self, port: int, user: str, replica: str, **query: str) -> None:
        super().__init__(port, user, replica)
        self.query = query
        self.knowledge = Knowledge(is_filtered="types" in query)
        self.resumes = True

    async def open(self) -> None:
        """Connect, and wait for the welcome, or for the refusal: `close_code` says."""
        self.close_code, self.close_reason = None, ""
        options = {"user_id": self.user, **self.query}
        if self.resumes and self.knowledge.cursor:
            options["cursor"] = self.knowledge.cursor_text
        welcomes = len(self.knowledge.welcomes)
        self.knowledge.connects()
        await self._connect(f"{self.url.partition('?')[0]}?{urlencode(options, quote_via=quote)}")
        self._reader = asyncio.create_task(self._read())
        await eventually(
            lambda: len(self.knowledge.welcomes) > welcomes or not self.is_connected, f"{self}'s welcome", seconds=20
        )

    async def resume(self, port: int, replica: str) -> None:
        """Go on where it is, on a replica."""
        self.url, self.replica = f"ws://127.0.0.1:{port}/ws", replica
        await self.open()

    @property
    def welcome(self) -> Control:
        """The last one."""
        return self.knowledge.welcomes[-1]

    @property
    def has_come_to_the_present(self) -> bool:
        """On this connection."""
        return self.is_connected and self.knowledge.has_come_to_the_present

    async def say(self, control: Any) -> None:
        """A control frame, or a text that is none."""
        await self._send(control if isinstance(control, str) else json.dumps(control))

    async def told(self, control: str, count: int = 1, seconds: float = 30.0) -> Control:
        """Wait until it was told this `count` times; gives the last."""
        await eventually(
            lambda: len(self.knowledge.said(control)) >= count,
            lambda: f"{self} to be told {control}; it knows {self.knowledge.controls[-5:]}, {self.close_code}",
            seconds=seconds,
        )
        return self.knowledge.said(control)[-1]

    async def drop(self) -> None:
        """End the connection without a close frame. What was received until then counts."""
        self._abort()
        await finish(self._reader)
        assert self.close_code is not None

    async def ended(self, seconds: float = 30.0) -> int:
        """Wait until the server has ended it; gives the close code."""
        await eventually(lambda: not self.is_connected, f"the end of {self}", seconds=seconds)
        assert self.close_code is not None
        return self.close_code

    def check(self, oracle: Oracle, *, complete: bool = True) -> None:
        """The proof of a plain client; that ids and streams say where an event comes from; and that
        the places it was told have no holes."""
        assert not self.knowledge.wrong, f"{self}: {self.knowledge.wrong[:5]}"
        super().check(oracle, complete=complete)
        all_got = (*self.knowledge.events, *self.knowledge.snapshot)
        check_ids(self, all_got, oracle)
        users = {(event.source, event.offset): event.user for event in oracle.events}
        for got in all_got:
            stream = "global" if users[got.source, got.offset] is None else "user"
            assert got.stream == stream, f"{self}: another stream: {got}"

    def _took(self, frame: bytes) -> None:
        before = len(self.knowledge.events)
        self.knowledge.take(frame)
        self.frames += [event.as_plain for event in self.knowledge.events[before:]]

    @abstractmethod
    async def _connect(self, url: str) -> None: ...

    @abstractmethod
    async def _read(self) -> None: ...

    @abstractmethod
    async def _send(self, text: str) -> None: ...

    @abstractmethod
    def _abort(self) -> None: ...


class WebsocketsV1(V1Client):
    """On the `websockets` package."""

    library = "v1 websockets"

    async def _connect(self, url: str) -> None:
        self._socket: ClientConnection = await connect(
            url, subprotocols=[Subprotocol("notify.v1")], open_timeout=_OPEN_SECONDS, close_timeout=2, max_size=None,
            proxy=None,
        )  # fmt: skip
        assert self._socket.subprotocol == "notify.v1"
        assert self._socket.response is not None
        self.extensions = self._socket.response.headers.get("Sec-WebSocket-Extensions", "")

    async def _read(self) -> None:
        try:
            while True:
                self._took(bytes(await self._socket.recv(decode=False)))
        except ConnectionClosed as closed:
            received = closed.rcvd
            self._ended(received.code if received else None, received.reason if received else "")

    async def _send(self, text: str) -> None:
        await self._socket.send(text)

    def _abort(self) -> None:
        self._socket.transport.abort()

    async def close(self) -> None:
        if hasattr(self, "_reader"):
            await self._socket.close()
            await finish(self._reader)


class AiohttpV1(V1Client):
    """On aiohttp."""

    library = "v1 aiohttp"

    async def _connect(self, url: str) -> None:
        await self.close()
        self._session = aiohttp.ClientSession()
        async with asyncio.timeout(_OPEN_SECONDS):
            self._socket = await self._session.ws_connect(url, max_msg_size=0, protocols=["notify.v1"], autoclose=True)
        assert self._socket.protocol == "notify.v1"

    async def _read(self) -> None:
        async for message in self._socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                self._took(message.data.encode())
        self._ended(self._socket.close_code)

    async def _send(self, text: str) -> None:
        await self._socket.send_str(text)

    def _abort(self) -> None:
        connection = self._socket._response.connection
        if connection is not None and connection.transport is not None:
            connection.transport.abort()

    async def close(self) -> None:
        if hasattr(self, "_session"):
            await self._socket.close()
            await finish(self._reader)
            await self._session.close()


class EventStreamParser:
    """The interpretation of an event stream (HTML, section 9.2.6). Bytes in, messages out."""

    def __init__(self) -> None:
        self.last_event_id = ""
        self.retry_ms: int | None = None
        self.comments: list[bytes] = []
        self.ids = 0
        """How many were told; one comes with the beginning."""
        self._rest = b""
        self._is_first = True
        self._id = ""
        self._type = ""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> Iterable[tuple[str, bytes]]:
        """Gives event type and data of each event that is complete."""
        *lines, self._rest = re.split(rb"\r\n|\n|\r(?!\Z)", self._rest + chunk)
        for line in lines:
            if self._is_first:
                line, self._is_first = line.removeprefix(b"\xef\xbb\xbf"), False
            if line:
                self._field(line)
                continue
            # An id counts once its block ends, also when there is nothing else in it.
            self.last_event_id = self._id
            if self._data:
                yield self._type or "message", b"\n".join(self._data)
            self._type, self._data = "", []

    def _field(self, line: bytes) -> None:
        if line.startswith(b":"):
            self.comments.append(line[1:].strip())
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"event":
            self._type = value.decode()
        elif name == b"data":
            self._data.append(value)
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode()
            self.ids += 1
        elif name == b"retry" and value.isdigit():
            self.retry_ms = int(value)


class EventSourceClient(Client):
    """A client of /events, as a browser's EventSource is one. `frames` are its events as plain frames; told to
    resync a stream it drops what it knows of it by `id`, and only then.

    `open` resumes with Last-Event-ID once it has one; `close_code` is 1000 when the stream came to
    its end, 1006 when it broke off, or never began: see `status`.
    """

    library = "EventSource"

    def __init__(self, port: int, user: str, replica: str, **query: str) -> None:
        super().__init__(port, user, replica)
        self.query = query
        self.stream = EventStreamParser()
        self.controls: list[Control] = []
        """What it was told once it was let in."""
        self.refusals: list[Control] = []
        """What it was told instead, the last time."""
        self.events: list[StreamedEvent] = []
        """Those it did not know already, snapshots among them."""
        self.known = 0
        """Events that it dropped, since it was told to resync."""
        self.wrong: list[str] = []
        self.headers: dict[str, str] = {}
        self._highest: dict[Source, int] = {}
        self._resynced: set[str] = set()
        self.status = 0

    async def open(self) -> None:
        """Connect; returns when it was let in, or refused: then it is not connected."""
        await self.close()
        self.close_code, self.refusals = None, []
        last_id, self.stream = self.stream.last_event_id, EventStreamParser()
        self.stream.last_event_id = self.stream._id = last_id
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, sock_connect=_OPEN_SECONDS))
        origin = self.url.partition("/ws")[0].replace("ws", "http", 1).partition("/events")[0]
        async with asyncio.timeout(_OPEN_SECONDS):
            self._response = await self._session.get(
                f"{origin}/events?{urlencode({'user_id': self.user, **self.query}, quote_via=quote)}",
                headers={"Accept": "text/event-stream", **({"Last-Event-ID": last_id} if last_id else {})},
                ssl=self.tls or True,
            )
        self.status = self._response.status
        self.headers = {name.lower(): value for name, value in self._response.headers.items()}
        if self.status != HTTPStatus.OK:
            self._ended(1006, f"refused with {self.status}")
        self._reader = asyncio.create_task(self._read())
        await eventually(lambda: self.stream.ids > 0 or not self.is_connected, f"an answer to {self}", seconds=20)

    async def resume(self, port: int, replica: str) -> None:
        """Go on where it is, on a replica."""
        self.url, self.replica = f"ws://127.0.0.1:{port}/ws", replica
        await self.open()

    def said(self, control: str) -> list[Control]:
        return [one for one in self.controls if one["control"] == control]

    @property
    def has_come_to_the_present(self) -> bool:
        """On this connection; a heartbeat follows a replay."""
        return self.is_connected and bool(self.stream.comments)

    async def _read(self) -> None:
        try:
            async for chunk in self._response.content.iter_any():
                for type_, data in self.stream.feed(chunk):
                    self._take(type_, data)
            self._ended(1000)
        except aiohttp.ClientError:
            self._ended(1006)

    def _take(self, type_: str, data: bytes) -> None:
        if type_ == "control":
            if not self.stream.ids:
                self.refusals.append(json.loads(data))
                return
            self.controls.append(json.loads(data))
            if self.controls[-1]["control"] == "resync":
                self._resynced.add(self.controls[-1]["stream"])
            return
        if not data.startswith(b'{"type":"%s",' % type_.encode()):
            self.wrong.append(f"event: {type_} above {data[:100]!r}")
        if not self.stream.last_event_id:
            self.wrong.append(f"no id below {data[:100]!r}")
        event = parse_streamed(data)
        highest = self._highest.get(event.source, -1)
        stream = "global" if event.source[0] in BROADCAST_TOPICS else "user"
        if stream in self._resynced and event.offset <= highest:
            self.known += 1
            return
        self._highest[event.source] = max(highest, event.offset)
        self.events.append(event)
        self.frames.append(event.as_plain)

    async def drop(self) -> None:
        """End the connection without a word."""
        connection = self._response.connection
        if connection is not None and connection.transport is not None:
            connection.transport.abort()
        await finish(self._reader)

    async def ended(self, seconds: float = 30.0) -> None:
        await eventually(lambda: not self.is_connected, f"the end of {self}", seconds=seconds)

    def check(self, oracle: Oracle, *, complete: bool = True) -> None:
        assert not self.wrong, f"{self}: {self.wrong[:5]}"
        super().check(oracle, complete=complete)
        check_ids(self, self.events, oracle)

    async def close(self) -> None:
        if hasattr(self, "_reader"):
            self._response.close()
            with contextlib.suppress(aiohttp.ClientError):
                await finish(self._reader)
        if hasattr(self, "_session"):
            await self._session.close()
