"""Who is connected, and what each is owed.

Messages of a turn of the loop are gathered and go out as one write for each socket. A fan-out to
many yields to the loop between slices, so that handshakes and pings stay prompt.
"""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Final

from gateway.audience import Audience, Member
from gateway.close_codes import CloseCode
from gateway.control_frames import resync
from gateway.cursor import Cursor, Position
from gateway.deflate import deflated
from gateway.deliveries import Deliveries
from gateway.frames import Variant, frame_control, frame_message
from gateway.group import Due, Group, Receiver, Wishes
from gateway.heartbeats import BEAT_WRITES, Heartbeats
from gateway.resume import Resync
from gateway.stream import Filled, Meta, Verdict
from shared.keys import GLOBAL, Keys, StreamName
from shared.logging import get_logger
from shared.message import Message, parse_message

WRITES_A_TURN: Final = 512
"""Socket writes before the loop may do something else: about two milliseconds."""

DUE_BYTES_HIGH: Final = 64 * 1024 * 1024
"""Frames waiting for their fan-out, above which the subscription is not read any further."""

DUE_BYTES_LOW: Final = DUE_BYTES_HIGH // 2

LINGER_SECONDS: Final = 10
"""A stream whose last client has left stays subscribed for this long: clients come back."""

LINGERING_MOST: Final = 10_000
"""Streams that stay so, about 10 MB; above it those go that were left longest ago. Every new user's is
subscribed, and a crowd may bring one after the other."""

COMPARED_SECONDS: Final = 45
"""How old a stream's comparison with Redis may be for its place to be told in a heartbeat: one and a half
times what it takes to compare all (gateway.subscription), which is 30 s for up to COMPARED_STREAMS."""

COMPARED_STREAMS: Final = 15_000

UNSETTLED_SECONDS: Final = 600
"""For a lost tail to be published again. After that it is taken to be lost for good."""

log = get_logger("gateway.hub")


def _is_in(audience: Audience, buckets: Container[str] | None) -> bool:
    return buckets is None or audience.name.bucket in buckets


class Hub:
    """Audiences and members of one replica. All of it runs in the event loop's thread.

    The subscriber says what came (`receive`, `joined`, `filled`) and asks what to subscribe;
    connections come with `join`, are owed messages from `seat` on, and go with `leave`. The hub does
    no I/O: `on_wanted` asks for a look at what is wanted, `on_fetch` for a stream's log, `on_flood`
    for the link to be read no further (True) or again (False).
    """

    def __init__(
        self,
        keys: Keys,
        heartbeat_seconds: int = 15,
        *,
        deflate_min_bytes: int = 0,
        conflated: Container[bytes] = (),
    ) -> None:
        self._keys = keys
        self._conflated = conflated
        self._deflate_min_bytes = deflate_min_bytes
        self._audiences: dict[bytes, Audience] = {}
        self._wanted: dict[Audience, None] = {}
        self._idle: dict[Audience, int] = {}
        self._second = 0
        self._dirty: deque[Group] = deque()
        self._turn_due = False
        self._due_bytes = 0
        self.drained = asyncio.Event()
        """Clear while so much is due that nothing more shall be read from Redis."""
        self.drained.set()
        self.deliveries = Deliveries()
        self.on_wanted: Callable[[], None] = lambda: None
        self.on_fetch: Callable[[Audience], None] = lambda _audience: None
        self.on_flood: Callable[[bool], None] = lambda _flooded: None
        self.on_changed: Callable[[Audience], None] = lambda _audience: None
        """A connection of a user was opened, or has left."""
        self._opened_us = 0
        self.is_fed: Callable[[], bool] = lambda: True
        """Whether every stream is subscribed: what comes would arrive."""
        self.unsettled: dict[Audience, int] = {}
        """Those of which something is published again, to be compared soon (Stream.is_settled), and
        since which second."""
        self.everyone = self._audience(GLOBAL)
        """The global stream."""
        self._heartbeats = Heartbeats(heartbeat_seconds, self.everyone, self.tops)

    @property
    def heartbeat_seconds(self) -> int:
        return self._heartbeats.period_seconds

    # Connections come and go

    def join(self, member: Member, user_id: str) -> None:
        """Have the streams of `member` subscribed. Calls `member.subscribed()` once both are, perhaps
        before this returns."""
        audience = self._audience(self._keys.user_stream(user_id))
        member.audience = audience
        self._idle.pop(audience, None)
        audience.newcomer(member)
        if audience.is_joined and self.everyone.is_joined:
            member.subscribed()

    def opened(self, member: Member) -> None:
        """The handshake of `member` was answered: it counts among its user's connections. Sets
        `opened_us`, in Unix microseconds; no two are the same, also when the clock is set back."""
        self._opened_us = max(time.time_ns() // 1_000, self._opened_us + 1)
        member.opened_us = self._opened_us
        if member.audience is not None:
            self.on_changed(member.audience)

    def find(self, channel: str) -> Audience | None:
        """The stream with this channel; None when it has no client here, and had none for a while."""
        return self._audiences.get(channel.encode())

    def seat(self, member: Member) -> Cursor:
        """From now on `member` is owed what is pushed. Gives the place that this begins at."""
        audience = member.audience
        assert audience is not None
        audience.no_newcomer(member)
        everyones = self.everyone.group(member.wishes)
        member.wishes = everyones.wishes  # one object for all who wish the same
        everyones.join(member)
        audience.group(member.wishes).join(member)
        return Cursor(self.everyone.position, audience.position)

    def leave(self, member: Member) -> None:
        """Owe `member` nothing any more. May be called twice, and for one that never joined."""
        audience = member.audience
        if audience is None:
            return
        member.audience = None
        audience.leave(member)
        self.everyone.leave(member)
        if audience.is_idle:
            if audience in self._wanted:
                del self._wanted[audience]  # Redis was not asked for it yet
                self._forget(audience)
            else:
                self._idle[audience] = self._second + LINGER_SECONDS
        if member.opened_us:
            self.on_changed(audience)

    def flush(self, member: Member) -> None:
        """Write `member` what it is owed at this moment, and owe it nothing any more."""
        if member.audience is not None:
            self._write_owed(member, member.audience)
        self.leave(member)

    def change_wishes(self, member: Member, wishes: Wishes) -> None:
        """`member` gets what was pushed until now by its old wishes, and what follows by the new."""
        audience = member.audience
        if audience is None or member in (audience.newcomers or ()):
            member.wishes = wishes
            return
        self._write_owed(member, audience)
        member.wishes = wishes
        if member.audience is not None:  # not closed by that
            self.seat(member)

    def _write_owed(self, member: Member, audience: Audience) -> None:
        """Write `member` what it is owed at this moment, which may close it; it is in no group then."""
        for stream in (self.everyone, audience):
            stream.flush(member, self.deliveries)

    def _audience(self, name: StreamName) -> Audience:
        channel = self._keys.live(name).encode()
        audience = self._audiences.get(channel)
        if audience is None:
            audience = self._audiences[channel] = Audience(name, channel.decode())
            self._wanted[audience] = None
            if not name.is_global:
                self._heartbeats.add(audience)
            self.on_wanted()
        return audience

    # What the subscriber asks and tells

    @property
    def audiences(self) -> list[Audience]:
        """All that is to be subscribed, the global stream first."""
        return list(self._audiences.values())

    @property
    def waiting(self) -> list[Member]:
        """Those whose handshakes are not answered yet, or whose replay has not come to the present."""
        return [member for audience in self._audiences.values() for member in audience.newcomers or ()]

    def has(self, audience: Audience) -> bool:
        """Whether this stream is still to be subscribed."""
        return self._audiences.get(audience.channel.encode()) is audience

    def forget_wanted(self, buckets: Container[str] | None = None) -> None:
        """All audiences of these buckets (None: of all) are about to be subscribed anyway."""
        self._wanted = {audience: None for audience in self._wanted if not _is_in(audience, buckets)}

    @property
    def stream_count(self) -> int:
        return len(self._audiences)

    @property
    def due_bytes(self) -> int:
        """Of frames that wait for their fan-out."""
        return self._due_bytes

    def take_wanted(self, limit: int, buckets: Container[str] | None = None) -> list[Audience]:
        """The streams of these buckets (None: of all) to be subscribed that were not given before,
        at most `limit`."""
        wanted = list(itertools.islice((one for one in self._wanted if _is_in(one, buckets)), limit))
        for audience in wanted:
            del self._wanted[audience]
        return wanted

    def take_unwanted(self, buckets: Container[str] | None = None) -> list[Audience]:
        """The streams of these buckets (None: of all) whose last client left a while ago. They are
        forgotten here."""
        unwanted = [audience for audience in self._idle_long_enough() if _is_in(audience, buckets)]
        for audience in unwanted:
            del self._idle[audience]
            self._forget(audience)
        return unwanted

    def _forget(self, audience: Audience) -> None:
        del self._audiences[audience.channel.encode()]
        self.unsettled.pop(audience, None)
        self._heartbeats.forget(audience)

    def tick(self, second: int) -> None:
        """Take the time; have heartbeats written; wake the subscriber when there is something to drop."""
        self._second = second
        self._heartbeats.tick(second)
        if next(self._idle_long_enough(), None) is not None:
            self.on_wanted()

    def _idle_long_enough(self) -> Iterator[Audience]:
        """Those are the first: streams are noted in the order in which they become idle."""
        too_many = len(self._idle) - LINGERING_MOST
        for place, (audience, until) in enumerate(self._idle.items()):
            if until > self._second and place >= too_many:
                return
            yield audience

    def joined(self, audience: Audience, meta: Meta, next_offsets: Mapping[bytes, int]) -> None:
        """`audience` is subscribed, and afterwards Redis said this of it. The first time its
        handshakes are answered; later (the link was lost) a hole is looked for."""
        if audience.is_joined:
            if (audience.stream.epoch, audience.stream.seq) == (meta.epoch, meta.seq):
                self.compared(audience, meta, next_offsets)
            else:
                self.suspect(audience)
            return
        audience.is_joined = True
        audience.compared_at = self._second
        self._push(audience, audience.stream.join(meta, next_offsets))
        self._note_unsettled(audience)
        if not audience.stream.is_live:
            self.on_fetch(audience)
        for waiting in self._audiences.values() if audience.name.is_global else (audience,):
            self._answer(waiting)

    def _answer(self, audience: Audience) -> None:
        if audience.is_joined and self.everyone.is_joined:
            for member in list(audience.newcomers or ()):
                member.subscribed()

    def compared(self, audience: Audience, meta: Meta, next_offsets: Mapping[bytes, int] | None) -> None:
        """Redis said this of a stream, after every message published before had been received. Where
        the stream is behind, its log is read; else `compared_at` is now. `next_offsets` are the
        bucket's, read no later than `meta`; None when they were not."""
        stream = audience.stream
        if meta.epoch != stream.epoch or meta.seq > stream.seq:
            self.suspect(audience)
            return
        # It may be further: messages that follow the answer are taken before it is looked at.
        if not stream.is_live:
            return
        audience.compared_at = self._second
        if audience in self.unsettled and next_offsets is not None:
            is_given_up = self._second - self.unsettled[audience] > UNSETTLED_SECONDS
            if is_given_up:
                log.error("what a stream lost was not published again", stream=audience.name.bucket)
            if stream.settle(next_offsets, whatever_is_lost=is_given_up):
                del self.unsettled[audience]
                # Their last cursors are of an epoch that has ended: these are good. Everyone's clients
                # are too many for that; each has its heartbeat in its time.
                if not audience.name.is_global:
                    self._heartbeats.write_soon((audience,))

    def _note_unsettled(self, audience: Audience) -> None:
        if not audience.stream.is_settled and self.has(audience):  # else nobody is there to wait for it
            self.unsettled.setdefault(audience, self._second)

    def suspect(self, audience: Audience) -> None:
        """Something may be missing from `audience`: have its log read, unless that is under way."""
        if audience.is_joined and audience.stream.begin_fill():
            self.on_fetch(audience)

    def receive(self, channel: bytes, payload: bytes) -> None:
        """Take a live message as it came from Redis."""
        audience = self._audiences.get(channel)
        if audience is None:
            return  # unsubscribed a moment ago
        try:
            message = parse_message(payload)
        except ValueError as error:
            log.error("not a message of ours, dropped", channel=channel.decode(), error=str(error))
            return
        verdict = audience.stream.receive(message)
        if message.seq == 1:
            self._note_unsettled(audience)
        if verdict is Verdict.PUSH:
            self._push(audience, (message,))
        elif verdict is Verdict.FETCH:
            self.on_fetch(audience)

    def filled(self, audience: Audience, filled: Filled) -> None:
        """Push what a page of the log gave. Where it has a hole, members are told; those who cannot
        be are closed: they come back and start afresh."""
        self._note_unsettled(audience)
        if filled.hole:
            told = resync(is_global=audience.name.is_global, reason=Resync.GAP)
            for group in list(audience.groups.values()):
                if group.wishes.variant is Variant.PLAIN:
                    for member in group.everyone():
                        member.close(CloseCode.GAP)
                else:
                    self._push_to(group, Due(frame_control(group.wishes.variant, told)))
        self._push(audience, filled.push)

    def members_of(self, user_id: str) -> list[Receiver]:
        """Everybody here who is, or will be, owed what is that user's."""
        audience = self.find(self._keys.live(self._keys.user_stream(user_id)))
        return [] if audience is None else [*audience.everyone(), *(audience.newcomers or ())]

    # Fan-out

    def _push(self, audience: Audience, messages: Iterable[Message]) -> None:
        is_global = audience.name.is_global
        label = audience.stream.label if audience.groups else b""
        for message in messages:
            type_ = message.type
            is_conflated = type_ in self._conflated
            frames: dict[int, bytes] = {}
            for group in audience.groups.values():
                wishes = group.wishes
                if wishes.want(message):
                    frame = frames.get(group.framing)
                    if frame is None:
                        frame = frame_message(wishes.variant, message, is_global=is_global, label=label)
                        if wishes.deflated:
                            frame = deflated(frame, self._deflate_min_bytes)
                        frames[group.framing] = frame
                    place = Position(label, message.seq) if group.has_places else None
                    self._push_to(group, Due(frame, type_, place, message.ts_ms, is_conflated))
        if self._due_bytes > DUE_BYTES_HIGH and self.drained.is_set():
            self.drained.clear()
            self.on_flood(True)

    def _push_to(self, group: Group, due: Due) -> None:
        group.push(due)
        self._due_bytes += len(due.frame)
        if not group.queued:
            group.queued = True
            self._dirty.append(group)
        if not self._turn_due:
            self._turn_due = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """Make the writes that are due, some of each group in turn."""
        budget = WRITES_A_TURN
        dirty = self._dirty
        while dirty and budget > 0:
            group = dirty.popleft()
            if self._heartbeats.is_awaited(group) and group.is_between:
                budget -= BEAT_WRITES * self._heartbeats.write_late(group, max(1, budget // BEAT_WRITES))
            else:
                written, started_bytes = group.deliver(budget, self.deliveries)
                budget -= max(1, written)
                self._due_bytes -= started_bytes
            # No fan-out begins before those were told who wait for the end of the last.
            if group.has_due or self._heartbeats.is_awaited(group):
                dirty.append(group)
            else:
                group.queued = False
        self._turn_due = bool(dirty)
        if dirty:
            asyncio.get_running_loop().call_soon(self._turn)
        if self._due_bytes < DUE_BYTES_LOW and not self.drained.is_set():
            self.drained.set()
            self.on_flood(False)

    # What heartbeats say

    def tops(self, audience: Audience) -> Cursor | None:
        """Where a client of `audience` that was written everything is; None when Redis did not
        confirm it lately, or while something is being read or published again."""
        streams = (self.everyone, audience)
        oldest = COMPARED_SECONDS * max(1.0, len(self._audiences) / COMPARED_STREAMS)
        if not self.is_fed() or any(
            not of.stream.is_live
            or not of.stream.is_settled
            or of.compared_at is None
            or self._second - of.compared_at > oldest
            for of in streams
        ):
            return None
        return Cursor(self.everyone.position, audience.position)

    def heartbeat(self, member: Member) -> None:
        """Write a seated member what it is owed at this moment, and a heartbeat. One whose replay is
        still to come gets its heartbeat then; plain ones have none."""
        audience = member.audience
        if audience is None or member.wishes.variant is Variant.PLAIN:
            return
        if member in (audience.newcomers or ()):
            return
        self._write_owed(member, audience)
        if member.audience is not None:  # not closed by that
            self.seat(member)
            self._heartbeats.write(member, audience)
