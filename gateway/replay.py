"""What a client missed, from the log, until the present: then it is seated, with no seam.

A replay reads page after page as the socket takes them. What is left at last is read while live
messages are held for the connection: they follow when the log was read up to where they begin.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from gateway.acks import Acks
from gateway.admission.refusal import Refusal, spread_ms, too_many_replays, unavailable
from gateway.admission.wishes import Asked
from gateway.allowance import Allowance
from gateway.audience import Audience, Member
from gateway.close_codes import CloseCode
from gateway.control_frames import ControlFrame, resync
from gateway.cursor import START, Cursor, Position
from gateway.frames import Variant, frame_control, frame_message, frame_snapshot
from gateway.group import Due, with_ids
from gateway.history import parse_meta, parse_page, read_meta
from gateway.hub import Hub
from gateway.resume import Resync, before_all, end_of, judge
from gateway.settings import ConnectionSettings
from gateway.stream import Meta, Stream
from gateway.wheel import Wheel
from shared.errors import RedisError
from shared.keys import Keys
from shared.link import Command, Reply
from shared.links import Links, read_from_primary
from shared.logging import get_logger
from shared.message import Message, parse_message
from shared.settings import RedisSettings

FIRST_PAGE_MESSAGES: Final = 16
PAGE_MESSAGES: Final = 256
PAGE_BYTES: Final = 128 * 1024
"""What a page should come to; how many messages that are is told by the page before."""

SEAM_ROUNDS: Final = 20
"""From then on a connection is seated that is as many messages behind as a page has at most. Before, as
many as its next page has: what is read last counts as much as live messages that are held meanwhile."""

STALL_SECONDS: Final = 10.0
"""For a client to take a page."""

POLL_SECONDS: Final = 0.02
"""Until the first look whether this replica has come as far as the client had; then longer and longer."""

POLL_SECONDS_AT_MOST: Final = 0.3
SUSPECT_SECONDS: Final = 0.15
"""A replica that takes so long may have missed something."""

REPLAY_COST: Final = 50
"""What a replay costs of a user's allowance beside its messages."""

REPLAY_BURST: Final = 20_000
REPLAY_PER_SECOND: Final = 2_000

OUTCOMES: Final = ("recovered", "fresh", "resync", "refused")
"""How a client begins that came with a cursor, or for a snapshot."""

log = get_logger("gateway.replay")


class Broken(Exception):
    """What was to be replayed is not there any more: the client has to begin again."""


class Replaying(Member, Protocol):
    """A connection, as far as its replay knows it."""

    def answer(self, starts_at: Cursor, *, recovered: bool, replayed: int) -> None: ...
    def refuse(self, refusal: Refusal) -> None: ...
    def say(self, control: ControlFrame) -> None: ...
    def hold(self) -> None: ...
    def seated(self, at: Cursor) -> None: ...
    def replayed(self) -> None: ...
    def write_replayed(self, data: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class Place:
    """What Redis says of a stream before a replay."""

    meta: Meta
    first_seq: int | None
    """Of the log's first entry."""


@dataclass(slots=True)
class Track:
    """One of the two streams of a replay, and how far the client has come in it."""

    audience: Audience
    top: Position
    """Where the stream stood when Redis was asked."""
    at: Position
    resync: Resync | None = None
    page_messages: int = FIRST_PAGE_MESSAGES

    @property
    def stream(self) -> Stream:
        return self.audience.stream

    @property
    def is_reached(self) -> bool:
        """This replica's clients have been given what this one has, and more is to come by itself."""
        return self.stream.is_settled and self.stream.epoch == self.top.epoch and self.stream.seq >= self.at.seq

    def is_near(self, rounds: int) -> bool:
        """The rest may be read while live messages are held."""
        return self.stream.seq - self.at.seq <= (self.page_messages if rounds < SEAM_ROUNDS else PAGE_MESSAGES)

    def check_line(self) -> None:
        """Raises Broken when the client has what the stream has not: an epoch ended below it."""
        stream = self.stream
        if not stream.is_settled or not _is_within(self.at, Meta(stream.epoch, stream.seq, stream.forks)):
            raise Broken("an epoch has ended meanwhile")


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a log: the messages in it behind seq `after`, and the seq of its last entry."""

    after: int
    messages: list[Message]
    last_seq: int

    @property
    def has_hole(self) -> bool:
        """Entries are gone, or are no messages of ours."""
        return len(self.messages) != self.last_seq - self.after


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where a client begins, and what it is told of that."""

    tracks: tuple[Track, Track]
    had_cursor: bool
    snapshot: list[Message]

    @property
    def recovered(self) -> bool:
        """The client goes on where it was."""
        return self.had_cursor and not any(track.resync for track in self.tracks)

    @property
    def outcome(self) -> str:
        """For the count of them."""
        if any(track.resync for track in self.tracks):
            return "resync"
        return "recovered" if self.had_cursor else "fresh"

    @property
    def missed(self) -> int:
        """Messages published since."""
        return sum(max(0, track.top.seq - track.at.seq) for track in self.tracks)


def begin(audience: Audience, place: Place, wanted: Position | Resync | None) -> Track:
    """Where a client begins in a stream: after the position that it wants, when that is good; where
    the log does, when it is not; at the newest, when it wants none."""
    top = Position(place.meta.epoch, place.meta.seq)
    if wanted is None:
        return Track(audience, top, top)
    resync = wanted if isinstance(wanted, Resync) else judge(wanted, place.meta, place.first_seq)
    if resync is None and isinstance(wanted, Position):
        return Track(audience, top, wanted)
    return Track(audience, top, before_all(place.meta, place.first_seq), resync)


class Replays:
    """All replays of a replica: at most `max_replays` pages at once, and for each user so many
    messages a second."""

    def __init__(
        self, redis: RedisSettings, settings: ConnectionSettings, hub: Hub, links: Links, acks: Acks, wheel: Wheel
    ) -> None:
        self.redis = redis
        self.settings = settings
        self.hub = hub
        self.links = links
        self.acks = acks
        self.pages = asyncio.Semaphore(settings.max_replays)
        self.looks = asyncio.Semaphore(settings.max_replays)
        self.wheel = wheel
        self.outcomes: Counter[str] = Counter()
        """How those began that came, one of OUTCOMES."""
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def count(self) -> int:
        return len(self._tasks)

    def start(self, connection: Replaying, asked: Asked) -> "Replay":
        """Replay to `connection`, answer it and seat it. The replay ends by itself, or by `cancel`."""
        replay = Replay(self, connection, asked)
        task = replay.task = asyncio.create_task(replay.run())
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, connection))
        return replay

    def _ended(self, connection: Replaying, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:  # a mistake of ours; its client comes again
            log.error("a replay failed", error=repr(error))
            connection.close(CloseCode.UNAVAILABLE)


class Replay:
    """One connection's."""

    def __init__(self, replays: Replays, connection: Replaying, asked: Asked) -> None:
        self.task: asyncio.Task[None] | None = None
        self.is_seated = False
        """It is owed live messages, which are held until the replay is over."""
        self._replays = replays
        self._hub = replays.hub
        self._keys: Keys = replays.redis.keys
        self._connection = connection
        self._asked = asked
        self.untaken_bytes = 0
        """Written, and not taken by the socket yet."""
        self._cursor = Cursor(START, START)
        self._writable = asyncio.Event()
        self._writable.set()

    @property
    def is_writable(self) -> bool:
        return self._writable.is_set()

    def pause(self) -> None:
        """The socket takes no more."""
        self._writable.clear()

    def go_on(self) -> None:
        self._writable.set()

    def cancel(self) -> None:
        """The connection is gone. Called from within the replay, too, when it closes its connection."""
        if self.task is not None and self.task is not asyncio.current_task():
            self.task.cancel()

    async def run(self) -> None:
        connection = self._connection
        try:
            async with asyncio.timeout(self._replays.settings.join_seconds):
                beginning = await self._prepare()
        except (RedisError, TimeoutError, ValueError) as error:
            log.warning("cannot say where a client is to resume", error=str(error) or "no answer in time")
            self._replays.outcomes["refused"] += 1
            connection.refuse(unavailable("Redis did not answer in time; connect again.", spread_ms()))
            return
        if isinstance(beginning, Refusal):
            self._replays.outcomes["refused"] += 1
            connection.refuse(beginning)
            return
        self._answer(beginning)
        try:
            if connection.audience is not None:  # else it was closed with the answer
                await self._replay(beginning.tracks)
        except TimeoutError:
            connection.close(CloseCode.SLOW_CONSUMER)
        except (Broken, RedisError, ValueError) as error:
            log.info("a replay broke off, its client comes again", reason=str(error))
            is_plain = connection.wishes.variant is Variant.PLAIN
            if is_plain:
                connection.close(CloseCode.GAP)
            else:
                connection.close(CloseCode.UNAVAILABLE, f"{CloseCode.UNAVAILABLE.reason} retry_after_ms={spread_ms()}")

    # Where it begins

    async def _prepare(self) -> Beginning | Refusal:
        """Find where the client begins in both streams, and wait until this replica has come as far.

        Raises RedisError, and ValueError for what is not of this service.
        """
        audience, resume = self._connection.audience, self._asked.resume
        assert audience is not None
        assert resume is not None
        if not self._may_replay(audience, REPLAY_COST):
            return too_many_replays(spread_ms())
        cursor = resume.cursor
        if resume.from_ack:
            assert self._asked.device is not None
            async with self._replays.looks:
                known = await self._replays.acks.read((self._asked.user_id, self._asked.device))
            cursor = known or Resync.UNKNOWN_CURSOR
        beginning = await self._find(audience, cursor)
        if not self._may_replay(audience, beginning.missed, paid=REPLAY_COST):
            return too_many_replays(spread_ms())
        deadline = asyncio.get_running_loop().time() + self._replays.settings.join_seconds / 2
        while not all([await self._reach(track, deadline) for track in beginning.tracks]):
            if asyncio.get_running_loop().time() >= deadline:
                return unavailable("What Redis lost is being published again; connect again.", spread_ms())
            beginning = await self._find(audience, cursor)  # an epoch has begun since
        return beginning

    async def _find(self, audience: Audience, cursor: Cursor | Resync | None) -> Beginning:
        """Where the client begins by what Redis says now."""
        assert self._asked.resume is not None
        everyone, snapshot = self._hub.everyone, list[Message]()
        async with self._replays.looks:
            if self._asked.resume.snapshot:
                snapshot, place = await self._read_snapshot(everyone)
            else:
                place = await self._look(everyone)
            user_place = await self._look(audience)
        parts = cursor if isinstance(cursor, Cursor) else (cursor, cursor)
        tracks = (begin(everyone, place, parts[0]), begin(audience, user_place, parts[1]))
        beginning = Beginning(tracks, isinstance(cursor, Cursor), snapshot)
        if beginning.recovered:
            snapshot.clear()  # it knows
        return beginning

    async def _look(self, audience: Audience) -> Place:
        reply, first = await self._read(audience, read_meta(self._keys, audience.name), self._first(audience))
        return Place(parse_meta(reply), _first_seq(first))

    async def _read_snapshot(self, everyone: Audience) -> tuple[list[Message], Place]:
        """The newest message of each type, oldest first, and the place they were read at."""
        commands: tuple[Command, ...] = (
            read_meta(self._keys, everyone.name), self._first(everyone), ("HGETALL", self._keys.last)
        )  # fmt: skip
        reply, first, last = await self._read(everyone, *commands)
        newest = []
        for type_, payload in last.items():
            try:
                newest.append(parse_message(payload))
            except ValueError as error:
                log.error("the newest message of a type is none of ours", type=type_.decode(), error=str(error))
        return sorted(newest, key=lambda message: message.seq), Place(parse_meta(reply), _first_seq(first))

    def _may_replay(self, audience: Audience, messages: int, *, paid: int = 0) -> bool:
        second = self._replays.wheel.second
        if audience.replay_allowance is None:
            audience.replay_allowance = Allowance(burst=REPLAY_BURST, per_second=REPLAY_PER_SECOND, second=second)
        return audience.replay_allowance.take(messages, second, paid=paid)

    async def _reach(self, track: Track, deadline: float) -> bool:
        """Wait until this replica's stream has come to where the client is, and nothing is published
        again that it drops: the client may need it. False when that takes too long, or the stream
        has come to another epoch than `track` was found in."""
        stream, loop = track.stream, asyncio.get_running_loop()
        wait_seconds, is_suspect = POLL_SECONDS, False
        while not track.is_reached:
            if loop.time() >= deadline or (is_suspect and stream.is_live and stream.is_settled):
                return False
            await asyncio.sleep(wait_seconds)
            wait_seconds = min(2 * wait_seconds, POLL_SECONDS_AT_MOST)
            # The client may well be some milliseconds ahead of this replica. And what is published again
            # comes by itself: reading the log for each who waits would keep the stream from settling.
            if wait_seconds > SUSPECT_SECONDS and not is_suspect and stream.is_settled and not track.is_reached:
                self._hub.suspect(track.audience)
                is_suspect = True
        return True

    # The answer

    def _answer(self, beginning: Beginning) -> None:
        connection, (everyone, user) = self._connection, beginning.tracks
        variant = connection.wishes.variant
        self._cursor = Cursor(everyone.at, user.at)
        self._replays.outcomes[beginning.outcome] += 1
        connection.answer(self._cursor, recovered=beginning.recovered, replayed=beginning.missed)
        for track in beginning.tracks:
            if track.resync is None:
                continue
            if variant is Variant.PLAIN:
                connection.close(CloseCode.GAP)
                return
            connection.say(resync(is_global=track is everyone, reason=track.resync))
        starts = everyone.at.seq
        wanted = [one for one in beginning.snapshot if one.seq <= starts and connection.wishes.want(one)]
        if wanted:
            connection.write_replayed(b"".join([frame_snapshot(variant, message) for message in wanted]))

    # What was missed

    async def _replay(self, tracks: Sequence[Track]) -> None:
        """Raises Broken, RedisError, and TimeoutError for a client that does not take a page in time."""
        is_last = False
        for number in itertools.count(1):
            # In the last round in the same step of the loop as the seat: up to here the log is read, and
            # from here on live messages are held.
            tops = [Position(track.stream.epoch, track.stream.seq) for track in tracks]
            for track, top in zip(tracks, tops, strict=True):
                await self._catch_up(track, top)
            if is_last:
                break
            if all(track.is_near(number) for track in tracks):
                for track in tracks:
                    track.check_line()
                self._connection.hold()
                self.is_seated = is_last = True
                self._connection.seated(self._hub.seat(self._connection))
        self._connection.replayed()

    async def _catch_up(self, track: Track, top: Position) -> None:
        """Replay one stream up to `top`, where this replica had come."""
        while track.at.seq < top.seq:
            async with self._replays.pages:
                page = await self._read_page(track, top)
                self._write(track, page)
            track.at = Position(page.messages[-1].epoch if page.messages else top.epoch, page.last_seq)
            async with asyncio.timeout(STALL_SECONDS):
                await self._writable.wait()

    async def _read_page(self, track: Track, top: Position) -> Page:
        """The next messages. Raises Broken when they are not of the life that the client is in."""
        after, count = track.at.seq, track.page_messages
        page_of_log = ("XRANGE", self._keys.log(track.audience.name), f"({after}", f"{top.seq}", "COUNT", count)
        reply, entries = await self._read(track.audience, read_meta(self._keys, track.audience.name), page_of_log)
        meta = parse_meta(reply)
        if not _is_within(track.at, meta) or not _is_within(top, meta):
            raise Broken("its epoch has ended")
        messages = parse_page(entries)
        size = sum(len(message.data) for message in messages) // max(1, len(messages)) + 200
        track.page_messages = max(4, min(2 * count, PAGE_MESSAGES, PAGE_BYTES // size))
        return Page(after, messages, int(entries[-1][0].partition(b"-")[0]) if entries else top.seq)

    def _write(self, track: Track, page: Page) -> None:
        """Raises Broken for a hole, when the client cannot be told of it."""
        connection, is_global = self._connection, track.audience.name.is_global
        variant = connection.wishes.variant
        if page.has_hole:
            log.error("a hole in a log that a client is replayed", stream=track.audience.name.bucket, after=page.after)
            if variant is Variant.PLAIN:
                raise Broken("the log has a hole")
            told = resync(is_global=is_global, reason=Resync.GAP)
            connection.write_replayed(frame_control(variant, told))
        due = [
            Due(
                frame_message(variant, message, is_global=is_global, label=message.epoch),
                message.type,
                Position(message.epoch, message.seq),
            )
            for message in page.messages
            if connection.wishes.want(message)
        ]
        if not due:
            return
        if variant is Variant.EVENTS:
            data, self._cursor = with_ids(due, self._cursor, is_global=is_global)
        else:
            data = b"".join([one.frame for one in due])
        connection.write_replayed(data)
        self._hub.deliveries.replayed(due)

    async def _read(self, audience: Audience, *commands: Command) -> list[Reply]:
        link = await self._replays.links.of(audience.name.bucket)
        return await read_from_primary(link, commands, timeout_seconds=self._replays.redis.redis_timeout_seconds)

    def _first(self, audience: Audience) -> Command:
        return ("XRANGE", self._keys.log(audience.name), "-", "+", "COUNT", 1)


def _is_within(position: Position, meta: Meta) -> bool:
    """Whether `position` is a place in the life that `meta` tells of."""
    end = end_of(position.epoch, meta)
    return end is not None and position.seq <= end


def _first_seq(reply: Reply) -> int | None:
    return int(reply[0][0].partition(b"-")[0]) if reply else None
