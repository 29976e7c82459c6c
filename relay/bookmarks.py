"""Which dead letters were put back already (`python -m relay redrive`). Pure.

Every kind of letter (topic and reason) has a bookmark of its own in each partition of the dead-letter
topic: letters below it were put back, or cannot be. So a run that is limited to some kinds leaves the
others to a later one, and no letter is put back a second time by a run with another filter.

All bookmarks of a partition are one commit of a group of their own: its offset is the bookmark of
every kind that its metadata does not name.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from relay.decode import Reason
from relay.letters import Kind
from relay.routes import ROUTES

ALL_KINDS: Final = tuple(Kind(topic, reason.value) for topic in ROUTES for reason in Reason)
"""Every kind that this version writes."""


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
        return Bookmarks(rest, {kind: mark for kind, mark in ahead.items() if mark > rest})

    def within(self, beginning: int, end: int) -> "Bookmarks":
        """The same for a topic that has only the offsets from `beginning` to before `end`. Bookmarks
        past the end are those of a topic that was deleted: nothing of this one was put back."""
        if max(self.rest, *self.ahead.values(), 0) > end:
            return Bookmarks(beginning)
        rest = max(self.rest, beginning)
        return Bookmarks(rest, {kind: mark for kind, mark in self.ahead.items() if mark > rest})

    @property
    def metadata(self) -> str:
        """What is committed beside `rest`: `topic/reason=offset`, separated by commas. At most 3 KB
        (brokers take 4)."""
        return ",".join(f"{kind.topic}/{kind.reason}={offset}" for kind, offset in sorted(self.ahead.items()))


def parse_bookmarks(offset: int, metadata: str) -> Bookmarks:
    """The reverse of `metadata`; `offset` is -1 when nothing was ever committed. Raises ValueError when
    somebody else wrote it."""
    ahead = {}
    for part in filter(None, metadata.split(",")):
        name, _, mark = part.partition("=")
        topic, slash, reason = name.partition("/")
        if not slash:
            raise ValueError(f"{part!r} is no bookmark")
        ahead[Kind(topic, reason)] = int(mark)
    return Bookmarks(max(0, offset), ahead)
