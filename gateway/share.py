"""A replica's share of a user's connections, as it lies in Redis, and which of all are too many. Pure.

    <connections> <opened> <opened> ...

Their number, and for each when it was opened, oldest first: microseconds since 1970 by its replica's clock,
other for each there, so that it names the connection as well. Of more than NAMED the newest are named.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

NAMED: Final = 1_000
"""Connections of a user that a replica names at most. A cap is not above it."""


class Share(NamedTuple):
    """What one replica has of a user."""

    connections: int
    opened_us: tuple[int, ...]


def encode_share(opened_us: Sequence[int]) -> bytes:
    """A share, given oldest first; empty for no connection."""
    if len(opened_us) == 1:
        return b"1 %d" % opened_us[0]
    return " ".join(map(str, (len(opened_us), *opened_us[-NAMED:]))).encode() if opened_us else b""


def parse_share(value: bytes) -> Share:
    """Raises ValueError for what is none."""
    connections, *opened_us = map(int, value.split())
    return Share(connections, tuple(opened_us))


def oldest_above(cap: int, shares: Mapping[bytes, Share]) -> dict[bytes, frozenset[int]]:
    """The connections that are more than `cap`, the oldest of all, by replica."""
    everyone = sorted((opened, replica) for replica, share in shares.items() for opened in share.opened_us)
    above = everyone[: max(0, len(everyone) - cap)]
    return {one: frozenset(opened for opened, replica in above if replica == one) for _, one in above}


def readable(shares: Mapping[bytes, bytes]) -> dict[bytes, Share]:
    """Shares by replica, without those that are none of ours."""
    found = {}
    for replica, value in shares.items():
        with contextlib.suppress(ValueError):
            found[replica] = parse_share(value)
    return found


def living(shares: Mapping[bytes, bytes], leases_ms: Mapping[bytes, float], now_ms: int) -> dict[bytes, Share]:
    """What replicas whose lease holds have told, as far as it can be read."""
    return readable({replica: value for replica, value in shares.items() if leases_ms.get(replica, 0) >= now_ms})
