"""Two relays share a group; one freezes past its session, is given up, and thaws."""

import signal

from harness.oracle import TYPE_OF_TOPIC
from harness.servers import PARTITIONS
from harness.stage import GROUP_SECONDS, Stage
from harness.waiting import eventually

from demo.process import Process

ALL_PARTITIONS = len(TYPE_OF_TOPIC) * PARTITIONS


async def assigned(stage: Stage, relay: Process) -> int:
    """How many partitions a relay says it reads."""
    return int(await stage.metric(relay, "partitions_assigned"))


async def test_a_frozen_relay_that_thaws_doubles_and_reorders_nothing(stage: Stage) -> None:
    stage.needs_groups_of_several()
    first, second, gateway = stage.add_relay("relay-1"), stage.add_relay("relay-2"), stage.add_gateway()
    await stage.start(first, gateway)
    await stage.crowd(stage.users, [gateway])
    async with stage.load(stage.users, per_second=150) as load:
        await load.more(100)
        await stage.start(second, seconds=GROUP_SECONDS)

        async def both_read() -> bool:
            counts = (await assigned(stage, first), await assigned(stage, second))
            return sum(counts) == ALL_PARTITIONS and all(counts)

        await eventually(both_read, "both relays reading", seconds=GROUP_SECONDS)
        await load.more(100)
        first.signal(signal.SIGSTOP)

        async def second_reads_all() -> bool:
            return await assigned(stage, second) == ALL_PARTITIONS

        await eventually(second_reads_all, "the second relay reading all partitions", seconds=GROUP_SECONDS)
        await load.more(100)
        first.signal(signal.SIGCONT)
        await eventually(both_read, "both relays reading again", seconds=GROUP_SECONDS)
        await load.more(100)
    await stage.exact()
