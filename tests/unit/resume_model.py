"""Clients of notify.v1 that drop and resume on any replica, in the world of delivery_model.

Hub, Stream, History, Replay are the project's own code; links are modelled, so that a read may be
answered long after Redis made it, and an epoch may end between any two of a replay's pages.
"""

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import delivery_model
from delivery_model import PARTITIONS, USERS, Faults, Relay, Replica, World
from scripted import server_frames

from gateway.acks import Acks
from gateway.admission.refusal import Refusal
from gateway.admission.wishes import Asked, Resume
from gateway.audience import Audience
from gateway.close_codes import CloseCode
from gateway.control_frames import welcome
from gateway.cursor import Cursor, parse_cursor
from gateway.frames import Variant, frame_control
from gateway.group import Due, Wishes
from gateway.replay import Replays
from gateway.settings import ConnectionSettings
from gateway.wheel import Wheel
from shared.keys import GLOBAL
from shared.links import Links

SPINS: Final = 4
"""Turns of the loop between two things that happen."""

SETTLING_STEPS: Final = 4_000


@dataclass
class Call:
    """A transaction under way: read by Redis at one time, answered at another."""

    bucket: str
    commands: Sequence[Any]
    answer: asyncio.Future[list[Any]]
    reply: list[Any] | None = None


class ModelLinks:
    """Links to the model's nodes."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.calls: list[Call] = []
        names = {"global": GLOBAL} | {user: world.keys.user_stream(user) for user in USERS}
        self.stream_of = {
            key: stream for stream, name in names.items() for key in (world.keys.meta(name), world.keys.log(name))
        }

    async def of(self, bucket: str) -> "ModelLink":
        return ModelLink(self, bucket)

    def step(self) -> None:
        """Redis reads for one of the calls, or one that was read is answered."""
        self.calls = [call for call in self.calls if not call.answer.done()]
        if not self.calls:
            return
        call = self.world.chance.choice(self.calls)
        if call.reply is None:
            call.reply = [self._read(call.bucket, command) for command in call.commands]
        else:
            call.answer.set_result(call.reply)

    def _read(self, bucket: str, command: Sequence[Any]) -> Any:
        if command[0] == "ROLE":
            return [b"master"]
        node, stream = self.world.nodes[bucket], self.stream_of[command[1]]
        if command[0] == "HMGET":
            return node.meta_reply(stream)
        assert command[0] == "XRANGE"
        start, end = command[2], command[3]
        after = int(start.removeprefix("(")) if start != "-" else 0
        page = node.page_reply(stream, after, command[5])
        return page if end == "+" else [entry for entry in page if int(entry[0].partition(b"-")[0]) <= int(end)]


class ModelLink:
    def __init__(self, links: ModelLinks, bucket: str) -> None:
        self.links, self.bucket = links, bucket

    async def transaction(self, commands: Sequence[Any], *, timeout_seconds: float) -> list[Any]:
        call = Call(self.bucket, commands, asyncio.get_running_loop().create_future())
        self.links.calls.append(call)
        return await call.answer


class ResumingReplica(Replica):
    """A replica that replays, and compares its streams with Redis."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.links = ModelLinks(world)
        settings = ConnectionSettings(_env_file=None, join_seconds=60)  # type: ignore[call-arg]
        links = cast(Links, self.links)
        acks = Acks(delivery_model._SETTINGS, links)
        self.replays = Replays(delivery_model._SETTINGS, settings, self.hub, links, acks, Wheel())

    def compare(self) -> None:
        """Ask on the live link where a stream stands; the answer comes in its place among messages."""
        audience = self.world.chance.choice(list(self.audiences.values()))
        if self.is_listening and audience.is_joined:
            node = self.world.nodes[audience.name.bucket]
            place = audience.stream.seq
            self.queue.append((audience, ("compare", node.life_reply(), node.meta_reply(audience.name.name), place)))

    def take_one(self) -> None:
        if self.queue and isinstance(self.queue[0][1], tuple) and self.queue[0][1][0] == "compare":
            audience, (_, life, meta_reply, was) = self.queue.pop(0)
            meta = delivery_model.parse_meta(meta_reply)
            if meta.seq or audience.stream.seq == was:
                self.hub.compared(audience, meta, delivery_model.parse_next(life))
        else:
            super().take_one()


@dataclass
class Got:
    stream: str
    partition: str
    offset: int


@dataclass
class Phone:
    """A client of notify.v1: what it got over all its connections, and how far it says it is."""

    user: str
    got: list[Got] = field(default_factory=list)
    cursor: dict[str, tuple[str, int]] = field(default_factory=dict)
    highest: dict[tuple[str, str], int] = field(default_factory=dict)
    dedupes: set[str] = field(default_factory=set)
    recovered: int = 0
    resyncs: int = 0

    def take(self, control: dict[str, Any]) -> None:
        """Do what a client does with a frame. Once it was told to resync it drops what it knows; until
        then it takes whatever comes."""
        kind = control.get("control")
        if kind in ("welcome", "heartbeat"):
            for stream in ("global", "user"):
                if stream in control:
                    self.cursor[stream] = (control[stream]["epoch"], control[stream]["seq"])
        elif kind == "resync":
            self.resyncs += 1
            self.dedupes.add(control["stream"])
        elif kind is None:
            stream = control["stream"]
            self.cursor[stream] = (control["epoch"], control["seq"])
            partition, _, offset = control["id"].rpartition("/")
            if stream in self.dedupes and int(offset) <= self.highest.get((stream, partition), -1):
                return
            self.highest[stream, partition] = int(offset)
            self.got.append(Got(stream, partition, int(offset)))

    def resume(self) -> Resume | None:
        if not self.cursor:
            return None
        return Resume(parse_cursor("{}.{}.{}.{}".format(*self.cursor["global"], *self.cursor["user"])))


class Session:
    """One connection of a phone to a replica; gateway.connection without a socket."""

    def __init__(self, phone: Phone, replica: ResumingReplica) -> None:
        self.phone, self.replica = phone, replica
        self.wishes = Wishes(Variant.V1, None)
        self.opened_us = 0
        self.audience: Audience | None = None
        self.write: Any = self._written
        self.is_open = True
        self.is_live = False
        self._held: list[bytes] | None = None
        self._replay: Any = None
        self.asked = Asked(phone.user, resume=phone.resume())
        replica.hub.join(self, phone.user)

    def subscribed(self) -> None:
        if self.asked.resume is not None:
            self._replay = self.replica.replays.start(self, self.asked)
        else:
            self.answer(self.replica.hub.seat(self), recovered=False, replayed=0)
            self.is_live = True

    def answer(self, starts_at: Cursor, *, recovered: bool, replayed: int) -> None:
        self.phone.recovered += recovered
        first = welcome(starts_at, heartbeat_ms=1_000, recovered=recovered, replayed=replayed)
        self._written(frame_control(Variant.V1, first))

    def _written(self, data: bytes) -> None:
        if self.is_open:
            for _, payload in server_frames(data):
                self.phone.take(json.loads(payload))

    def say(self, control: Any) -> None:
        self.write(frame_control(Variant.V1, control))

    def refuse(self, refusal: Refusal) -> None:
        self.drop()

    def seated(self, at: Cursor) -> None: ...

    def hold(self) -> None:
        self._held = []
        self.write = self._held.append

    def replayed(self) -> None:
        held, self._held = self._held or [], None
        self.write = self._written
        self.is_live = True
        for data in held:
            self._written(data)
        self.replica.hub.heartbeat(self)

    def write_replayed(self, data: bytes) -> None:
        self._written(data)

    def write_conflated(self, due: Sequence[Due], joined: bytes, *, is_global: bool) -> None:
        self.write(joined)

    def write_events(self, due: Sequence[Due], *, is_global: bool) -> None:
        raise AssertionError("not an event stream")

    def close(self, code: CloseCode, reason: str | None = None) -> None:
        self.drop()

    def drop(self) -> None:
        """The connection is gone; what was on its way to the client is lost with it."""
        self.is_open = False
        self.replica.hub.leave(self)
        if self._replay is not None:
            self._replay.cancel()


async def run(seed: int, faults: Faults, steps: int = 300) -> tuple[str | None, Phone]:
    """One world with a phone that drops and resumes all the time."""
    chance = random.Random(seed)
    world = World(chance, faults)
    relays = [Relay(world, PARTITIONS), Relay(world, ())]
    replicas = [ResumingReplica(world) for _ in range(3)]
    world.replicas += replicas
    for replica in replicas:
        replica.subscribe()
        while replica.unread:
            replica.read_one_meta()
        while replica.queue:
            replica.take_one()
    phone = Phone(chance.choice(USERS))
    session = Session(phone, chance.choice(replicas))
    for _ in range(steps):
        delivery_model.step(world, relays)
        dice = chance.random()
        replica = chance.choice(replicas)
        if dice < 0.2:
            replica.compare()
        elif dice < 0.23:
            session.drop()
        for _ in range(chance.randrange(4)):
            # Where the client is much happens while it is replayed to.
            session.replica.links.step()
            session.replica.take_one()
            chance.choice(relays).step()
            await _spin()
        if not session.is_open and chance.random() < 0.5:
            session = Session(phone, chance.choice(replicas))
        await _spin()
    wrong = await _settle(world, relays[0], replicas, phone, session)
    tasks = [task for replica in replicas for task in replica.replays._tasks]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return (f"seed {seed}: {wrong}" if wrong else None), phone


async def _spin() -> None:
    for _ in range(SPINS):
        await asyncio.sleep(0)


async def _settle(
    world: World, relay: Relay, replicas: Sequence[ResumingReplica], phone: Phone, session: Session
) -> str | None:
    """The faults are over: everything is published, and the client is connected at last."""
    relay.assign(PARTITIONS)
    for _ in range(world.count * len(world.nodes) + len(world.nodes)):
        relay.step()
    for replica in replicas:
        wrong = replica.settle()
        if wrong:
            return wrong
    for _ in range(SETTLING_STEPS):
        for replica in replicas:
            replica.compare()
            replica.take_one()
            replica.read_history()
            replica.links.step()
        await _spin()
        if not session.is_open:
            session = Session(phone, world.chance.choice(replicas))
        if session.is_live and (_missing(world, phone) is None or (world.faults.log_length and phone.resyncs)):
            break
    for _ in range(20):
        await _spin()
    stuck = None
    if not session.is_live:
        states = [
            (name, one.stream.epoch, one.stream.seq, one.stream.is_live, one.stream._carried, one.is_joined)
            for name, one in session.replica.audiences.items()
        ]
        stuck = f"its replay never ends: {states}"
    session.drop()
    return stuck or judge(world, phone)


def _missing(world: World, phone: Phone) -> str | None:
    got = {(one.partition, one.offset) for one in phone.got}
    missing = [
        (name, offset)
        for name, records in world.partitions.items()
        for offset, record in enumerate(records)
        if record.stream in ("global", phone.user) and (name, offset) not in got
    ]
    return f"{missing[:3]} missing" if missing else None


def judge(world: World, phone: Phone) -> str | None:
    """Everything published since the first connection, once, in the order of its partition and stream."""
    places = [(one.stream, one.partition, one.offset) for one in phone.got]
    if len(set(places)) < len(places):
        doubled = next(place for place in places if places.count(place) > 1)
        return f"a duplicate: {doubled}, after {phone.recovered} recoveries and {phone.resyncs} resyncs"
    for stream in ("global", "user"):
        for name in PARTITIONS:
            offsets = [one.offset for one in phone.got if (one.stream, one.partition) == (stream, name)]
            if offsets != sorted(offsets):
                return f"disorder in {stream}"
    return None if world.faults.log_length and phone.resyncs else _missing(world, phone)
