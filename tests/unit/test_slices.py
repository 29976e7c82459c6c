"""Cutting work into bounded pieces."""

import pytest

from shared.slices import slices


@pytest.mark.parametrize(
    ("items", "size", "expected"),
    [
        ([], 3, []),
        ([1], 3, [[1]]),
        ([1, 2, 3], 3, [[1, 2, 3]]),
        ([1, 2, 3, 4], 3, [[1, 2, 3], [4]]),
        ([1, 2], 1, [[1], [2]]),
    ],
)
def test_everything_comes_once_in_order_and_no_piece_is_larger(
    items: list[int], size: int, expected: list[list[int]]
) -> None:
    assert list(slices(items, size)) == expected
