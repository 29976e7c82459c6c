"""A dead letter as it lies in its topic: what is written beside a rejected record, and read back. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from relay.batch import DeadLetter, Record
from relay.routes import ROUTES, Partition

Headers = list[tuple[str, bytes]]

HEADER_PREFIX: Final = "dlq-"
_VALUE_BYTES: Final = HEADER_PREFIX + "value-bytes"
_REASON: Final = re.compile(r"[a-z0-9_]{1,64}")


class Kind(NamedTuple):
    """What letters are told apart by: the topic they came from, and the reason."""

    topic: str
    reason: str


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter that was read. `source` and `offset` are where the record was rejected; `headers`
    are the record's own. `value_bytes` is None when the letter is whole, else it has no value, and
    the record had one of so many bytes."""

    kind: Kind
    source: Partition
    offset: int
    key: bytes | None
    value: bytes
    headers: Headers
    value_bytes: int | None


def origin_headers(letter: DeadLetter) -> Headers:
    """Where a dead letter came from, and why it is one."""
    origin = {
        "topic": letter.partition.topic,
        "partition": letter.partition.number,
        "offset": letter.record.offset,
        "timestamp": letter.record.timestamp,
        "reason": letter.reason.value,
    }
    return [(HEADER_PREFIX + name, str(value).encode()) for name, value in origin.items()]


def own_headers(record: Record) -> Headers:
    """The record's headers without those of a time as a dead letter."""
    return [(name, value) for name, value in record.headers if not name.startswith(HEADER_PREFIX)]


def whole_headers(letter: DeadLetter) -> Headers:
    """The record's own headers, then ours."""
    return own_headers(letter.record) + origin_headers(letter)


def bare_headers(letter: DeadLetter) -> Headers:
    """What goes instead of a letter that is too large for the topic, or that could not be decoded."""
    size = len(letter.record.value or b"")
    return [*origin_headers(letter), (_VALUE_BYTES, str(size).encode())]


def parse_letter(record: Record) -> Letter | None:
    """Read a dead letter back. None when it is not one that a relay wrote."""
    ours = _ours(record.headers)
    try:
        topic, reason = ours["topic"].decode(), ours["reason"].decode()
        source = Partition(topic, int(ours["partition"]))
        offset = int(ours["offset"])
        value_bytes = int(ours["value-bytes"]) if "value-bytes" in ours else None
    except (KeyError, ValueError):
        return None
    if topic not in ROUTES or not _REASON.fullmatch(reason) or source.number < 0:
        return None
    return Letter(
        Kind(topic, reason), source, offset, record.key, record.value or b"", own_headers(record), value_bytes
    )


def _ours(headers: Sequence[tuple[str, bytes]]) -> dict[str, bytes]:
    prefix = len(HEADER_PREFIX)
    return {name[prefix:]: value or b"" for name, value in headers if name.startswith(HEADER_PREFIX)}
