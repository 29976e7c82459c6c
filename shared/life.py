"""A bucket's `life` as Redis gives it (shared.keys says what is in it)."""

from collections.abc import Mapping
from typing import Final

NEXT_FIELD: Final = b"n:"


def parse_next(life: Mapping[bytes, bytes]) -> dict[bytes, int]:
    """The next offset to publish, by partition's name: the `n:<partition>` fields. Others are left out."""
    prefix = len(NEXT_FIELD)
    return {name[prefix:]: int(offset) for name, offset in life.items() if name.startswith(NEXT_FIELD)}
