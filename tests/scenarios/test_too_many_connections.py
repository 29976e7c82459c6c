"""A user has at most so many connections on all replicas together: one more is let in, the oldest goes."""

import asyncio
import random
import signal
from collections.abc import Sequence

from harness.clients import AiohttpClient, Client, WebsocketsClient
from harness.stage import Stage
from harness.v1 import AiohttpV1, EventSourceClient, WebsocketsV1
from harness.waiting import eventually

from demo.process import Process

CAP = 3
LEASE_SECONDS = 25
CHURN_SECONDS = 60
_CAPPED = {"MAX_CONNECTIONS_PER_USER": str(CAP)}
_KINDS: tuple[type[Client], ...] = (WebsocketsClient, WebsocketsV1, EventSourceClient, AiohttpClient, AiohttpV1)


class Guests:
    """Connections of one user, oldest first, on whichever replica."""

    def __init__(self, stage: Stage, user: str, cap: int = CAP) -> None:
        self.stage, self.user, self.cap = stage, user, cap
        self.came: list[Client] = []

    async def come(self, replica: Process, kind: type[Client] | None = None) -> Client:
        client = (kind or _KINDS[len(self.came) % len(_KINDS)])(replica.port, self.user, replica.name)
        await self.stage.let_in(client)
        self.came.append(client)
        self.stage.clients.append(client)
        return client

    async def leave(self, client: Client) -> None:
        self.came.remove(client)
        self.stage.clients.remove(client)
        await client.close()

    @property
    def here(self) -> list[Client]:
        return [client for client in self.came if client.is_connected]

    async def are(self, *expected: Client, seconds: float = 30.0) -> None:
        """Wait until these are left, and Redis knows it; then none of them may go, either."""
        await eventually(
            lambda: self.here == list(expected),
            lambda: f"{[str(one) for one in expected]}, there are {[str(one) for one in self.here]}",
            seconds=seconds,
        )
        await self.is_told(len(expected), seconds=seconds)
        await asyncio.sleep(0.5)
        assert self.here == list(expected)
        for client in self.came:
            if not client.is_connected:
                assert_replaced(client)

    async def is_told(self, count: int, *, seconds: float = 30.0) -> None:
        await eventually(
            lambda: sum(self.told().values()) == count,
            lambda: f"{count} told, there are {self.told()}",
            seconds=seconds,
            poll_seconds=0.1,
        )

    def told(self) -> dict[str, int]:
        return self.stage.redis_control.presence(self.stage.prefix, self.user)


def assert_replaced(client: Client) -> None:
    if isinstance(client, EventSourceClient):
        assert client.controls[-1] == {"control": "error", "code": "replaced", "message": "replaced"}
        assert client.stream.retry_ms is not None
        assert client.stream.retry_ms > 3_600_000, "a browser would be back at once, and replace another"
    else:
        assert (client.close_code, client.close_reason) in ((4502, "replaced"), (4502, "")), (
            f"{client}: {client.close_code} {client.close_reason}"
        )


async def two_replicas(stage: Stage) -> list[Process]:
    replicas = [stage.add_gateway(f"gateway-{number}", env=_CAPPED) for number in (1, 2)]
    await stage.start(*replicas)
    return replicas


async def test_one_too_many_replaces_the_oldest_wherever_it_is(stage: Stage) -> None:
    relay = stage.add_relay()
    await stage.start(relay)
    one, other = await two_replicas(stage)
    guests = Guests(stage, stage.users[0])
    bystander = await stage.connect(stage.users[1], one)
    first = await guests.come(one)
    second, third = await guests.come(other), await guests.come(other)
    await guests.are(first, second, third)
    fourth = await guests.come(other)
    await guests.are(second, third, fourth)
    fifth = await guests.come(one)
    await guests.are(third, fourth, fifth)
    assert isinstance(third, EventSourceClient)
    sixth = await guests.come(one, EventSourceClient)
    await guests.are(fourth, fifth, sixth)
    # Who leaves makes room.
    await guests.leave(fifth)
    await guests.is_told(2)
    seventh = await guests.come(other)
    await guests.are(fourth, sixth, seventh)
    # They are connected in every other respect, too.
    since = await stage.producer.settled()
    left = [fourth, sixth, seventh, bystander]
    for client in left:
        client.since = since
    async with stage.load(stage.users) as load:
        await load.more(100)
    await stage.exact(left)


async def test_many_at_once_leave_exactly_the_cap(stage: Stage) -> None:
    replicas = await two_replicas(stage)
    users = [Guests(stage, user) for user in (*stage.users, "cem")]
    await asyncio.gather(*(guests.come(random.choice(replicas), kind) for guests in users for kind in _KINDS * 6))
    for guests in users:
        await eventually(lambda guests=guests: len(guests.here) <= CAP, "the others to go")  # type: ignore[misc]
        assert len(guests.here) == CAP
        await guests.are(*guests.here)


async def test_a_killed_replicas_share_is_gone_within_thirty_seconds(stage: Stage) -> None:
    dies, lives = await two_replicas(stage)
    guests = Guests(stage, stage.users[0])
    oldest = await guests.come(lives)
    for _ in range(2):
        await guests.come(dies)
    await guests.is_told(CAP)
    await dies.kill()
    await guests.is_told(1, seconds=30)
    for client in guests.came[1:]:
        await eventually(lambda client=client: not client.is_connected, "its clients to see it")  # type: ignore[misc]
        await guests.leave(client)
    new = [await guests.come(lives), await guests.come(lives)]
    await guests.are(oldest, *new)
    newest = await guests.come(lives)
    await guests.are(*new, newest)


async def test_a_replica_that_is_told_to_go_takes_its_share_with_it(stage: Stage) -> None:
    goes = stage.add_gateway("goes", env={**_CAPPED, "DRAIN_DELAY_SECONDS": "0", "DRAIN_SECONDS": "1"})
    stays = stage.add_gateway("stays", env=_CAPPED)
    await stage.start(goes, stays)
    guests = Guests(stage, stage.users[0])
    stayer, leaver = await guests.come(stays), await guests.come(goes)
    await guests.is_told(2)
    names = list(guests.told())
    name = names[0] if await _is_of(guests, names[0], stays) else names[1]
    assert await goes.terminate() == 0
    assert guests.told() == {name: 1}
    assert stayer.is_connected
    await guests.leave(leaver)


async def _is_of(guests: Guests, name: str, replica: Process) -> bool:
    """Whether a replica is called so in Redis: one more connection there counts under that name."""
    before = guests.told()[name]
    client = await guests.come(replica)
    await guests.is_told(3)
    found = guests.told()[name] == before + 1
    await guests.leave(client)
    await guests.is_told(2)
    return found


async def test_redis_loses_everything(stage: Stage) -> None:
    one, other = await two_replicas(stage)
    guests = Guests(stage, stage.users[0])
    came = [await guests.come(replica) for replica in (one, other, other)]
    await guests.are(*came)
    for restarts in (False, True):
        if restarts:
            await stage.redis.restart()
        else:
            stage.redis_control.lose_everything()
        await guests.is_told(CAP)

        async def takes_clients() -> bool:
            return await stage.status_of_a_handshake(other, stage.users[1]) == 101

        await eventually(takes_clients, "Redis to be back for the replica")
        came = [*came[1:], await guests.come(other)]
        await guests.are(*came)


async def test_redis_is_away_while_connections_leave(stage: Stage) -> None:
    one, other = await two_replicas(stage)
    guests = Guests(stage, stage.users[0])
    came = [await guests.come(replica) for replica in (one, other, other)]
    await guests.are(*came)
    stage.redis.signal(signal.SIGSTOP)
    await guests.leave(came[1])
    await asyncio.sleep(8)
    stage.redis.signal(signal.SIGCONT)
    await guests.is_told(2)
    await guests.are(came[0], came[2])


async def test_a_frozen_replica_closes_what_is_too_many_when_it_goes_on(stage: Stage) -> None:
    frozen, lives = await two_replicas(stage)
    guests = Guests(stage, stage.users[0])
    old = [await guests.come(frozen) for _ in range(CAP)]
    await guests.are(*old)
    frozen.signal(signal.SIGSTOP)
    await guests.is_told(0, seconds=LEASE_SECONDS + 5)
    new = [await guests.come(lives), await guests.come(lives)]
    await guests.is_told(2)
    assert all(client.is_connected for client in old)
    frozen.signal(signal.SIGCONT)
    await guests.are(old[-1], *new, seconds=60)


async def test_connections_that_come_and_go_for_a_minute(stage: Stage) -> None:
    """In rounds: some leave, and then many come at once. Each round leaves exactly as many as it must."""
    replicas = await two_replicas(stage)
    users = [Guests(stage, user) for user in (*stage.users, "cem", "dora")]
    randomly = random.Random(5)
    loop = asyncio.get_running_loop()
    end_at, rounds = loop.time() + CHURN_SECONDS, 0
    while loop.time() < end_at:
        rounds += 1
        await asyncio.gather(*(_round(guests, replicas, randomly) for guests in users))
    assert rounds > 3


async def _round(guests: Guests, replicas: Sequence[Process], randomly: random.Random) -> None:
    leaving = [client for client in guests.here if randomly.random() < 0.4]
    await asyncio.gather(*map(guests.leave, leaving))
    stayed = guests.here
    await guests.is_told(len(stayed))
    coming = randomly.randint(0, 2 * CAP)
    new = await asyncio.gather(
        *(guests.come(randomly.choice(replicas), randomly.choice(_KINDS)) for _ in range(coming))
    )
    expected = min(CAP, len(stayed) + coming)
    await eventually(lambda: len(guests.here) <= expected, "the oldest to go")
    await guests.is_told(expected)
    assert len(guests.here) == expected, "one too many has gone"
    # Those that were there before go first.
    assert sum(client.is_connected for client in new) == min(coming, CAP)
    for client in guests.came.copy():
        if not client.is_connected:
            assert_replaced(client)
            await guests.leave(client)
