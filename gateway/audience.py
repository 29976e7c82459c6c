"""A stream, and those on this replica who get it."""

from typing import Optional, Protocol

from gateway.allowance import Allowance
from gateway.cursor import Position
from gateway.group import Group, Receiver, Tally, Wishes
from gateway.stream import Stream
from shared.keys import StreamName


class Member(Receiver, Protocol):
    """A connection, as far as the hub knows it."""

    audience: Optional["Audience"]
    """The stream of its user. Belongs to the hub; None before `join` and after `leave`."""

    def subscribed(self) -> None:
        """Both streams are subscribed: `Hub.seat` may be called."""


class Audience:
    """A stream and its connections on this replica."""

    __slots__ = ("channel", "compared_at", "groups", "is_joined", "name", "newcomers", "replay_allowance", "stream")

    def __init__(self, name: StreamName, channel: str) -> None:
        self.name = name
        self.channel = channel
        self.stream = Stream()
        self.groups: dict[Wishes, Group] = {}
        self.newcomers: set[Member] | None = None
        """Those who wait until both streams are subscribed, or who read the log before they are
        seated. None when there are none: there is an audience for each user."""
        self.replay_allowance: Allowance | None = None
        """What this user's clients may have replayed; None until the first replay."""
        self.is_joined = False
        self.compared_at: int | None = None
        """The hub's second in which Redis was last known to have nothing that this stream has not."""

    @property
    def is_idle(self) -> bool:
        return not self.groups and not self.newcomers and not self.name.is_global

    @property
    def position(self) -> Position:
        """Where whoever is seated now begins, as clients are told it."""
        return Position(self.stream.label, self.stream.seq)

    def group(self, wishes: Wishes) -> Group:
        group = self.groups.get(wishes)
        if group is None:
            group = self.groups[wishes] = Group(wishes, is_global=self.name.is_global)
        return group

    def newcomer(self, member: Member) -> None:
        if self.newcomers is None:
            self.newcomers = {member}
        else:
            self.newcomers.add(member)

    def no_newcomer(self, member: Member) -> None:
        """`member` is seated, or gone."""
        if self.newcomers is not None:
            self.newcomers.discard(member)
            if not self.newcomers:
                self.newcomers = None

    def leave(self, member: Member) -> None:
        self.no_newcomer(member)
        group = self.groups.get(member.wishes)
        if group is not None:
            group.leave(member)
            self._forget_if_empty(group)

    def flush(self, member: Member, deliveries: Tally) -> None:
        """Write `member` what it is owed of this stream, and let it leave its group."""
        group = self.groups.get(member.wishes)
        if group is not None:
            group.flush(member, deliveries)
            self._forget_if_empty(group)

    def _forget_if_empty(self, group: Group) -> None:
        if group.is_empty:
            self.groups.pop(group.wishes, None)

    @property
    def count(self) -> int:
        """Connections of any kind, those included whose handshakes are not answered yet."""
        count = 0 if self.newcomers is None else len(self.newcomers)
        for group in self.groups.values():
            count += group.count
        return count

    def present(self) -> list[Receiver]:
        """Those whose handshakes were answered, oldest first."""
        present = self.everyone()
        if self.newcomers is not None:
            present += [member for member in self.newcomers if member.opened_us]
        if len(present) > 1:
            present.sort(key=lambda member: member.opened_us)
        return present

    def everyone(self) -> list[Receiver]:
        return [member for group in self.groups.values() for member in group.everyone()]
