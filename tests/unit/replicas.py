"""A replica's hub, subscriber and history on real servers, and as much of a relay as their tests need."""

import asyncio
from collections.abc import Mapping
from typing import Any

from harness.waiting import eventually
from scripted import ScriptedMember, SeatingHub

from gateway.history import History
from gateway.subscriber import Subscriber
from gateway.subscription import Subscription
from shared.keys import Keys, StreamName
from shared.link import Link, RedisAddress
from shared.message import encode_body
from shared.servers import Servers
from shared.settings import RedisSettings
from shared.topology import Placement, slot_of

KEYS = Keys("unit", 2)
PARTITION = "risk-events/0"


class Publisher:
    """As much of a relay as these tests need: a log, its meta, life, and live messages."""

    def __init__(self, link: Link, link_of: Mapping[str, Link] | None = None) -> None:
        self.link = link
        self.link_of = dict(link_of or {})
        self.seqs: dict[StreamName, int] = {}
        self.offset = 0
        self.beats = 0

    async def publish(self, stream: StreamName, data: bytes, *, heard: bool = True, epoch: str = "a") -> None:
        """The next message of a stream; `heard` False is one that its channel loses."""
        seq = self.seqs[stream] = self.seqs.get(stream, 0) + 1
        message = b"%s %d %s" % (epoch.encode(), seq, encode_body(PARTITION, self.offset, 0, "risk_alert", data))
        commands: list[Any] = [
            ("XADD", KEYS.log(stream), f"{seq}-0", "m", message),
            ("HSET", KEYS.meta(stream), "epoch", epoch, "seq", seq),
            ("HSET", KEYS.life(stream.bucket), f"n:{PARTITION}", self.offset + 1),
        ]
        if heard:
            commands.append(("SPUBLISH", KEYS.live(stream), message))
        self.offset += 1
        await self.link_of.get(stream.bucket, self.link).transaction(commands, timeout_seconds=5)

    async def beat(self, bucket: str = "g", *, heard: bool = True) -> None:
        self.beats += 1
        commands: list[Any] = [("HSET", KEYS.life(bucket), "beat", self.beats)]
        if heard:
            commands.append(("SPUBLISH", KEYS.beat(bucket), self.beats))
        await self.link_of.get(bucket, self.link).transaction(commands, timeout_seconds=5)


class Replica:
    """Hub, subscriber and history, running."""

    def __init__(self, settings: RedisSettings, servers: Servers | None = None) -> None:
        self.hub = SeatingHub(KEYS)
        self.history = History(settings, self.hub, "unit-gateway", servers)
        self.subscriber = Subscriber(settings, self.hub, "unit-gateway", servers)
        self.tasks = [asyncio.create_task(self.history.run()), asyncio.create_task(self.subscriber.run())]

    @property
    def subscription(self) -> Subscription:
        """That to the one server."""
        (subscription,) = self.subscriber._running
        return subscription

    async def connect(self, user_id: str) -> ScriptedMember:
        """A member whose handshake was answered."""
        member = ScriptedMember(None, user_id)
        member.on_close = lambda: self.hub.leave(member)
        self.hub.join(member, user_id)
        await eventually(lambda: member.opened_times == 1, f"{user_id} to be let in", seconds=30)
        return member

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def data_of(member: ScriptedMember) -> list[bytes]:
    return [payload.partition(b'"data":')[2][:-1] for payload in member.payloads]


async def gets(member: ScriptedMember, *data: bytes) -> None:
    """Wait until a member has got exactly this."""
    await eventually(lambda: len(data_of(member)) >= len(data), lambda: f"{data}, got {data_of(member)}", seconds=30)
    assert data_of(member) == list(data)


def stream(user_id: str) -> StreamName:
    return KEYS.user_stream(user_id)


class ToldServers(Servers):
    """Knows where everything is from what it was told last, once it is asked anew."""

    def __init__(self, settings: RedisSettings, truth: Placement) -> None:
        super().__init__(settings)
        self.truth = truth
        self.asked = 0

    async def _ask(self) -> Placement:
        self.asked += 1
        self._placement = self.truth
        return self._placement


def split(homes: Mapping[str, RedisAddress], rest: RedisAddress) -> Placement:
    """Some buckets on servers of their own, all others on `rest`."""
    starts, servers = [0], [rest]
    for bucket in sorted(homes, key=lambda bucket: slot_of(KEYS.life(bucket))):
        slot = slot_of(KEYS.life(bucket))
        starts += [slot, slot + 1]
        servers += [homes[bucket], rest]
    return Placement(tuple(starts), tuple(servers))
