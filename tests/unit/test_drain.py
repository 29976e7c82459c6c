"""Who goes when."""

import pytest

from gateway.drain import plan_slots


@pytest.mark.parametrize(("leavers", "seconds"), [(0, 20), (1, 20), (19, 20), (1_000, 20), (7, 1), (7, 0), (5, 3)])
def test_everyone_goes_once_and_slots_are_even(leavers: int, seconds: int) -> None:
    slots = plan_slots(range(leavers), seconds)
    assert len(slots) == max(1, seconds)
    assert sorted(leaver for slot in slots for leaver in slot) == list(range(leavers))
    sizes = [len(slot) for slot in slots]
    assert max(sizes) - min(sizes) <= 1


def test_the_order_is_by_chance() -> None:
    assert plan_slots(range(1_000), 1)[0] != list(range(1_000))
