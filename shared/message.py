"""A message as it lies in Redis: in a stream's log, on its channel, and in `last`.

    <epoch> <seq> <partition> <offset> <ts> <type>\\n<data>

One line of ASCII words, a newline, then the event's JSON object as it came from Redpanda (without
CR and LF). `partition` is `topic/number`, or `topic~generation/number` once the topic was made
anew; with the offset it is the event's id: `risk-events/2/1841`. `ts` is the record's Kafka
timestamp in milliseconds. The relay writes all but the first two words (`encode_body`), the publish
script puts epoch and seq before it.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

TYPE_OF_TOPIC: Final[Mapping[str, str]] = MappingProxyType(
    {
        "regime-events": "regime_change",
        "alert-events": "market_alert",
        "risk-events": "risk_alert",
        "execution-events": "order_executed",
    }
)
"""The topics that events come from, and the type that the events of each have."""

BROADCAST_TOPICS: Final = frozenset(("regime-events", "alert-events"))
"""Those whose events are for everyone; those of the others name a user."""

EVENT_TYPES: Final = frozenset(type_.encode() for type_ in TYPE_OF_TOPIC.values())
"""Every type that can be in a message."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """One event in its place in a stream."""

    epoch: bytes
    seq: int
    partition: bytes
    offset: int
    ts_ms: int
    type: bytes
    data: bytes

    @property
    def id(self) -> str:
        """The event's source as its id: `topic/partition/offset`."""
        return f"{self.partition.decode()}/{self.offset}"


def encode_body(partition: str, offset: int, ts_ms: int, type_: str, data: bytes) -> bytes:
    """What the relay hands to the publish script for one event. `data` has no CR and no LF."""
    return b"%s %d %d %s\n%s" % (partition.encode(), offset, ts_ms, type_.encode(), data)


def parse_message(payload: bytes) -> Message:
    """Read a message from a log entry or a channel.

    Raises ValueError when it is not one: somebody else writes under our prefix.
    """
    head, newline, data = payload.partition(b"\n")
    if not newline:
        raise ValueError("no head line")
    epoch, seq, partition, offset, ts_ms, type_ = head.split(b" ")
    return Message(epoch, int(seq), partition, int(offset), int(ts_ms), type_, data)
