"""Heartbeats: which clients get one in which second, and how far it says that they were written everything.

Each user's clients have a second of the period of their own, and each second's heartbeats go out step by step. None
is written in the middle of a fan-out to its group: it would tell more, or less, than is true.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from gateway.audience import Audience, Member
from gateway.cursor import Cursor, Position
from gateway.frames import Variant, frame_heartbeat
from gateway.group import Due, Group, Receiver

BEAT_WRITES: Final = 4
"""What a heartbeat counts as among a turn's writes: it is framed for each user by itself."""

BEATS_A_STEP: Final = 128
"""Heartbeats before the loop may do something else: hub.WRITES_A_TURN, if each counts as BEAT_WRITES."""

BEATS_WITHIN_SECONDS: Final = 0.8
"""Those of a second are spread so far, so that the next find none of them left."""

BEAT_PAUSE_SECONDS: Final = 0.05
"""Between two steps at most, however few they are."""


@dataclass(slots=True)
class _Beat:
    """A heartbeat for the members of a user's group, and who is still to get it."""

    audience: Audience
    group: Group
    members: list[Receiver]


class Heartbeats:
    """Those of one replica's hub. `everyone` is the global stream; `tops` gives where a client of a stream stands
    that was written everything, None when that is not proven."""

    def __init__(self, period_seconds: int, everyone: Audience, tops: Callable[[Audience], Cursor | None]) -> None:
        self._everyone = everyone
        self._tops = tops
        # Audiences by the second of the period in which their clients get a heartbeat.
        self._ring: list[set[Audience]] = [set() for _ in range(period_seconds)]
        # Those whose second it is, and what is begun of one of them.
        self._due: deque[Audience] = deque()
        self._begun: list[_Beat] = []
        self._pause_seconds = BEAT_PAUSE_SECONDS
        self._next_asked = False
        # Groups of users whose heartbeat waits for the end of a group's fan-out.
        self._late: dict[Group, dict[Group, _Beat]] = {}

    @property
    def period_seconds(self) -> int:
        """Between two heartbeats of a client."""
        return len(self._ring)

    def add(self, audience: Audience) -> None:
        """A user's stream whose clients are to get heartbeats."""
        self._second_of(audience).add(audience)

    def forget(self, audience: Audience) -> None:
        """One that is gone; it may never have been there."""
        self._second_of(audience).discard(audience)

    def _second_of(self, audience: Audience) -> set[Audience]:
        # Any second will do, as long as those who came together are spread.
        return self._ring[hash(audience.channel) % len(self._ring)]

    def tick(self, second: int) -> None:
        """Take the time, and begin with the heartbeats of this second."""
        waiting = set(self._due)
        due = self._ring[second % len(self._ring)] - waiting
        spread_seconds = BEATS_WITHIN_SECONDS * BEATS_A_STEP / max(1, len(due))
        self._pause_seconds = 0.0 if waiting else min(BEAT_PAUSE_SECONDS, spread_seconds)
        self.write_soon(due)

    def is_awaited(self, group: Group) -> bool:
        """Whether heartbeats wait for the end of a fan-out to this group."""
        return group in self._late

    def write_soon(self, audiences: Iterable[Audience]) -> None:
        """Have the clients of `audiences` written a heartbeat: the first at once, all step by step."""
        self._due.extend(audiences)
        if not self._next_asked:
            self._write_some()

    def _write_some(self) -> None:
        """Write some of the heartbeats that are due, and the next after a pause."""
        self._next_asked = False
        left = BEATS_A_STEP
        while left > 0 and (self._begun or self._due):
            if not self._begun:
                audience = self._due.popleft()
                told = [group for group in audience.groups.values() if group.wishes.variant is not Variant.PLAIN]
                self._begun = [_Beat(audience, group, list(group.members)) for group in told]
                left -= not told
                continue
            beat = self._begun[-1]
            left -= max(1, self._write(beat, left))
            if not beat.members:
                self._begun.pop()
        if self._begun or self._due:
            self._next_asked = True
            asyncio.get_running_loop().call_later(self._pause_seconds, self._write_some)

    def write_late(self, group: Group, limit: int) -> int:
        """Write up to `limit` of the heartbeats that waited for the end of a fan-out to `group`. Gives how many."""
        waiting, left = self._late[group], limit
        while waiting and left > 0:
            late, beat = waiting.popitem()
            left -= max(1, self._write(beat, left))
            if beat.members:
                waiting[late] = beat
        if not waiting:
            del self._late[group]
        return limit - left

    def _write(self, beat: _Beat, limit: int) -> int:
        """Write up to `limit` members of a user's group their heartbeat, once no fan-out to them is under way:
        it tells them how far they were written, no more and no less. Gives how many; the rest stays in `beat`."""
        audience, group, members = beat.audience, beat.group, beat.members
        # They are in the group of the same wishes of the global stream, too.
        everyones = self._everyone.groups.get(group.wishes)
        if everyones is None:
            beat.members = []
            return 0  # all have gone meanwhile
        for one in (everyones, group):
            if not one.is_between:
                waiting = self._late.setdefault(one, {})
                if group not in waiting or len(waiting[group].members) < len(members):
                    waiting[group] = _Beat(audience, group, members)
                beat.members = []
                return 0
        beat.members = members[limit:]
        tops = self._tops(audience)
        if tops is not None:
            places = (_place(self._everyone, everyones), _place(audience, group))
            tops = Cursor(places[0], places[1]) if places[0] and places[1] else None
        due = _due(group.wishes.variant, tops, _now_ms())
        for member in members[:limit]:
            # Who joined behind something that is still due has come further than the others, and who left is gone.
            if member in group.members and member in everyones.members:
                _write_due(member, due)
        return min(limit, len(members))

    def write(self, member: Member, audience: Audience) -> None:
        """Write a member that is owed nothing a heartbeat."""
        _write_due(member, _due(member.wishes.variant, self._tops(audience), _now_ms()))


def _place(audience: Audience, group: Group) -> Position | None:
    """Up to where the members of a group were written everything that they want."""
    place = group.written_up_to if group.has_due else audience.position
    return place if place is not None and place.epoch == audience.stream.label else None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _due(variant: Variant, tops: Cursor | None, ts_ms: int) -> Due:
    return Due(frame_heartbeat(variant, tops, ts_ms), None, tops)


def _write_due(member: Receiver, due: Due) -> None:
    if member.wishes.variant is Variant.EVENTS:
        member.write_events((due,), is_global=False)
    else:
        member.write(due.frame)
