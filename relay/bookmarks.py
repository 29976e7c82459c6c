"""Which dead letters were put back already (`python -m relay redrive`). Pure.

Every kind of letter (topic and reason) has a bookmark of its own in each partition of the dead-letter
topic: letters below it were put back, or cannot be. So a run that is limited to some kinds leaves the
others to a later one, and no letter is put back a second time by a run with another filter.

All bookmarks of a partition are one record in that partition, behind the letters that they speak of: it
outlives them under any retention. The last one counts.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from relay.batch import Record
from relay.decode import Reason
from relay.letters import HEADER_PREFIX, Headers, Kind
from relay.routes import ROUTES

ALL_KINDS: Final = tuple(Kind(topic, reason.value) for topic in ROUTES for reason in Reason)
"""Every kind that this version writes."""

BOOKMARKS_KEY: Final = b"redrive-bookmarks"
_HEADER: Final = HEADER_PREFIX + "redriven"
"""No letter has it: a rejected record's own headers that begin like this are left out."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which kinds a run puts back: those of `topics` and of `reasons`, of ALL_KINDS; with both empty every
    kind, also those that this version does not know."""

    topics: Collection[str] = ()
    reasons: Collection[str] = ()

    def __contains__(self, kind: Kind) -> bool:
        return self.is_everything or (
            kind in ALL_KINDS
            and (not self.topics or kind.topic in self.topics)
            and (not self.reasons or kind.reason in self.reasons)
        )

    @property
    def is_everything(self) -> bool:
        return not self.topics and not self.reasons

    @property
    def kinds(self) -> Iterable[Kind]:
        return (kind for kind in ALL_KINDS if kind in self)


@dataclass(frozen=True, slots=True)
class Bookmarks:
    """The bookmarks in one partition: `ahead` of some kinds, `rest` of all others, also of kinds that
    this version does not know."""

    rest: int
    ahead: Mapping[Kind, int] = field(default_factory=dict)

    def of(self, kind: Kind) -> int:
        """Where letters of `kind` begin that were not put back."""
        return self.ahead.get(kind, self.rest)

    def start(self, chosen: Chosen) -> int:
        """Where a run begins to read."""
        return self.rest if chosen.is_everything else min(map(self.of, chosen.kinds))

    def moved(self, chosen: Chosen, offset: int) -> "Bookmarks":
        """The same after all letters of the chosen kinds below `offset` were dealt with."""
        rest, ahead = self.rest, dict(self.ahead)
        if chosen.is_everything:
            rest = max(rest, offset)
        else:
            ahead.update((kind, max(self.of(kind), offset)) for kind in chosen.kinds)
        return Bookmarks(rest, ahead).not_before(rest)

    def not_before(self, beginning: int) -> "Bookmarks":
        """The same for a partition that has nothing before `beginning`."""
        rest = max(self.rest, beginning)
        return Bookmarks(rest, {kind: mark for kind, mark in self.ahead.items() if mark > rest})

    @property
    def headers(self) -> Headers:
        """What the record says: `rest,topic/reason=offset,...`. At most 3 KB."""
        marks = [f"{kind.topic}/{kind.reason}={offset}" for kind, offset in sorted(self.ahead.items())]
        return [(_HEADER, ",".join([str(self.rest), *marks]).encode())]


def last_bookmarks(records: Iterable[Record], end: int) -> Bookmarks | None:
    """The last bookmarks among `records`, which are in order, before `end`."""
    last = None
    for record in records:
        if record.offset < end:
            last = parse_bookmarks(record) or last
    return last


def parse_bookmarks(record: Record) -> Bookmarks | None:
    """Read back what a redrive wrote. None when it is something else, or speaks of what is behind itself:
    it was copied from another partition."""
    if record.key != BOOKMARKS_KEY:
        return None
    try:
        rest, *marks = dict(record.headers)[_HEADER].decode().split(",")
        ahead = {}
        for mark in marks:
            name, offset = mark.split("=")
            ahead[Kind(*name.split("/"))] = int(offset)
        found = Bookmarks(int(rest), ahead)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return found if max([found.rest, *ahead.values()]) <= record.offset else None
