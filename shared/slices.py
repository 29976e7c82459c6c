"""Cutting work into bounded pieces."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def slices(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """`items` in order, at most `size` at a time (itertools.batched is younger than Python 3.11)."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
