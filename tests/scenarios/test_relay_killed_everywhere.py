"""Relays die without a word at any moment of their work: alone, and several in one group."""

import asyncio
import random
import re

from harness.stage import GROUP_SECONDS, Stage
from harness.waiting import eventually

from demo.process import Process

KILLS = 12

# Nothing is trimmed: an event that is in a log twice is to be seen, however long ago.
KEEP_ALL = {"HISTORY_MESSAGES_GLOBAL": "1000000", "HISTORY_MESSAGES_USER": "1000000"}


def lives(relay: Process, line: str) -> int:
    """How many of its lives came as far as to log `line`."""
    return len(re.findall(rf"\b{line}\b", relay.log()))


async def has_published(stage: Stage, relay: Process) -> bool:
    """Whether the relay's present life has published a batch."""
    return await stage.metric(relay, "batch_events_count") > 0


async def test_a_relay_killed_at_twelve_moments_of_its_work_loses_doubles_and_reorders_nothing(stage: Stage) -> None:
    relay, gateway = stage.add_relay(env=KEEP_ALL), stage.add_gateway()
    await stage.start(relay, gateway)
    await stage.crowd(stage.users, [gateway])
    dice = random.Random(11)
    async with stage.load(stage.users, per_second=100) as load:
        await load.more(100)
        for kill in range(KILLS):
            if kill % 3 == 2:  # while it looks where to begin, or writes that down
                had = lives(relay, "partitions_assigned")
                await relay.kill()
                relay.start()
                await eventually(
                    lambda had=had: lives(relay, "partitions_assigned") > had, "partitions", poll_seconds=0.002
                )
                await asyncio.sleep(dice.uniform(0, 0.03))
            else:  # while it publishes what came meanwhile, and commits
                await relay.restart()
                await eventually(lambda: has_published(stage, relay), "a batch published", poll_seconds=0.01)
                await asyncio.sleep(dice.uniform(0.05, 0.4))
        await relay.restart()
        await load.more(100)
    await stage.exact()


async def test_three_relays_killed_in_any_order_lose_double_and_reorder_nothing(stage: Stage) -> None:
    stage.needs_groups_of_several()
    relays = [stage.add_relay(f"relay-{number + 1}", env=KEEP_ALL) for number in range(3)]
    gateway = stage.add_gateway()
    await stage.start(relays[0], gateway)
    await stage.crowd(stage.users, [gateway])
    dice = random.Random(7)
    async with stage.load(stage.users, per_second=150) as load:
        await stage.start(*relays[1:], seconds=GROUP_SECONDS)
        for _ in range(8):
            await load.more(dice.randrange(50, 300))
            victim = dice.choice([relay for relay in relays if relay.is_running])
            await victim.kill()
            if dice.random() < 0.5:
                await asyncio.sleep(dice.uniform(0, 3))
            for relay in relays:
                if not relay.is_running and (dice.random() < 0.7 or not any(other.is_running for other in relays)):
                    relay.start()
        for relay in relays:
            if not relay.is_running:
                relay.start()
        await load.more(100)
    await stage.exact(seconds=2 * GROUP_SECONDS)
    for relay in relays:  # one that still starts has no handler yet for the SIGTERM that ends the test
        await relay.wait_until_ready(GROUP_SECONDS)
