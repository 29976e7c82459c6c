"""How a replica leaves: who goes when. Pure."""

import random
from collections.abc import Sequence
from typing import TypeVar

Leaver = TypeVar("Leaver")


def plan_slots(leavers: Sequence[Leaver], seconds: int) -> list[list[Leaver]]:
    """Spread `leavers` over `seconds` slots of a second each, evenly and by chance.

    So the replicas that remain get their new clients bit by bit. One slot at least.
    """
    shuffled = list(leavers)
    random.shuffle(shuffled)
    slots = max(1, seconds)
    return [shuffled[slot::slots] for slot in range(slots)]
