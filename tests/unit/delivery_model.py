"""A randomised world around the real Stream, Hub and History: relays, Redis and replicas that fail.

Redpanda, relays and Redis are models that follow DESIGN section 3; what a replica decides is the
project's own code. Only its links are modelled, so that everything may happen between any two
messages: live messages lost or late, a link lost, a read answered long after it was made, a relay
killed or a zombie, partitions that move, a Redis that comes back with an old state or with none.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from gateway.audience import Audience
from gateway.close_codes import CloseCode
from gateway.group import PLAIN, Due
from gateway.history import History, parse_meta
from gateway.hub import Hub
from gateway.stream import Filled, Meta
from shared.keys import Keys
from shared.life import parse_next
from shared.message import Message, encode_body
from shared.settings import RedisSettings

USERS: Final = ("ann", "bob")
PARTITIONS: Final = ("risk-events/0", "risk-events/1")
READS_TO_SETTLE: Final = 60


class Record(NamedTuple):
    """One event of a partition, for one stream."""

    stream: str
    data: bytes


@dataclass
class Node:
    """A Redis server that holds one bucket."""

    run_id: float
    replid: float
    life: dict[str, Any] = field(default_factory=dict)
    next: dict[str, int] = field(default_factory=dict)
    meta: dict[str, dict[str, Any]] = field(default_factory=dict)
    log: dict[str, list[tuple[int, bytes]]] = field(default_factory=dict)

    def copy(self) -> "Node":
        """What a replica of it has at this moment."""
        meta = {
            stream: {**of, "offsets": dict(of["offsets"]), "forks": list(of["forks"])}
            for stream, of in self.meta.items()
        }
        log = {stream: list(entries) for stream, entries in self.log.items()}
        return Node(self.run_id, self.replid, dict(self.life), dict(self.next), meta, log)

    def meta_reply(self, stream: str) -> list[bytes | None]:
        meta = self.meta.get(stream)
        if meta is None:
            return [None, None, None]
        forks = " ".join(f"{epoch}:{seq}" for epoch, seq in meta["forks"][-8:])
        return [meta["epoch"].encode(), b"%d" % meta["seq"], forks.encode() or None]

    def whole_meta(self, stream: str) -> Meta:
        """As a fill reads it, with the offsets."""
        meta = parse_meta(self.meta_reply(stream))
        offsets = self.meta[stream]["offsets"] if stream in self.meta else {}
        return replace(meta, offsets={name.encode(): offset for name, offset in offsets.items()})

    def life_reply(self) -> dict[bytes, bytes]:
        return {b"epoch": b"e"} | {f"n:{name}".encode(): b"%d" % offset for name, offset in self.next.items()}

    def page_reply(self, stream: str, after: int, count: int) -> list[Any]:
        entries = [entry for entry in self.log.get(stream, ()) if entry[0] > after]
        return [[b"%d-0" % seq, [b"m", payload]] for seq, payload in entries[:count]]


@dataclass(frozen=True)
class Faults:
    """How bad this world is."""

    page_messages: int = 3
    log_length: int | None = None
    """None: the log keeps everything."""


class World:
    """Redpanda and the nodes of Redis."""

    def __init__(self, chance: random.Random, faults: Faults) -> None:
        self.chance = chance
        self.faults = faults
        self.keys = Keys(user_buckets=2)
        names = {user: self.keys.user_stream(user) for user in USERS}
        self.bucket_of = {"global": "g"} | {user: name.bucket for user, name in names.items()}
        assert len(set(self.bucket_of.values())) == 3
        self.partitions: dict[str, list[Record]] = {name: [] for name in PARTITIONS}
        self.committed = dict.fromkeys(PARTITIONS, 0)
        self.nodes = {bucket: self.new_node() for bucket in self.bucket_of.values()}
        self.lagging = {bucket: node.copy() for bucket, node in self.nodes.items()}
        self.replicas: list[Replica] = []
        self.count = 0

    def new_node(self) -> Node:
        return Node(self.chance.random(), self.chance.random())

    def produce(self) -> None:
        self.count += 1
        stream = self.chance.choice(list(self.bucket_of))
        self.partitions[self.chance.choice(PARTITIONS)].append(Record(stream, b"%d" % self.count))

    def begin(self, bucket: str) -> str:
        """begin.lua"""
        node = self.nodes[bucket]
        if node.life.get("server") != (node.run_id, node.replid):
            node.life = {"server": (node.run_id, node.replid), "epoch": f"e{self.chance.randrange(10**8)}"}
        epoch: str = node.life["epoch"]
        return epoch

    def publish(self, bucket: str, epoch: str, events: Iterable[tuple[str, str, int, bytes]],
                next_offsets: Mapping[str, int]) -> bool:  # fmt: skip
        """publish.lua"""
        node = self.nodes[bucket]
        if node.life.get("epoch") != epoch or node.life["server"] != (node.run_id, node.replid):
            return False
        for stream, partition, offset, data in events:
            meta = node.meta.setdefault(stream, {"epoch": epoch, "seq": 0, "offsets": {}, "forks": []})
            if offset <= meta["offsets"].get(partition, -1):
                continue
            if meta["epoch"] != epoch:
                meta["forks"].append((meta["epoch"], meta["seq"]))
                meta["epoch"] = epoch
            meta["seq"] += 1
            meta["offsets"][partition] = offset
            body = encode_body(partition, offset, 0, "risk_alert", data)
            payload = b"%s %d %s" % (epoch.encode(), meta["seq"], body)
            log = node.log.setdefault(stream, [])
            log.append((meta["seq"], payload))
            if self.faults.log_length is not None:
                del log[: -self.faults.log_length]
            for replica in self.replicas:
                replica.offer(stream, payload)
        for partition, offset in next_offsets.items():
            node.next[partition] = max(offset, node.next.get(partition, 0))
        return True

    def fail_over(self) -> None:
        """A replica that lags is promoted: its data is an older prefix."""
        bucket = self.chance.choice(list(self.nodes))
        run_id = self.nodes[bucket].run_id
        self.nodes[bucket] = promoted = self.lagging[bucket].copy()
        promoted.replid = self.chance.random()
        # Half of the times it is the same server again: there and back.
        promoted.run_id = run_id if self.chance.random() < 0.5 else self.chance.random()

    def lose_all(self) -> None:
        bucket = self.chance.choice(list(self.nodes))
        self.nodes[bucket] = self.new_node()
        self.lagging[bucket] = self.nodes[bucket].copy()


class Relay:
    """A relay that publishes batch after batch, bucket after bucket, and may stop anywhere."""

    def __init__(self, world: World, partitions: Iterable[str]) -> None:
        self.world = world
        self.assign(partitions)

    def assign(self, partitions: Iterable[str]) -> None:
        world = self.world
        self.epochs = {bucket: world.begin(bucket) for bucket in world.nodes}
        self.at = {name: min(node.next.get(name, 0) for node in world.nodes.values()) for name in partitions}
        self.todo: list[str] = []
        self.batch: dict[str, list[tuple[str, str, int, bytes]]] = {}
        self.next: dict[str, int] = {}

    def step(self) -> None:
        if not self.todo:
            self._read()
        bucket = self.todo[-1]
        if not self.world.publish(bucket, self.epochs[bucket], self.batch[bucket], self.next):
            self.assign(list(self.at))
            return
        self.todo.pop()
        if not self.todo:
            self.at.update(self.next)

    def _read(self) -> None:
        world = self.world
        self.todo = list(world.nodes)
        world.chance.shuffle(self.todo)
        self.batch = {bucket: [] for bucket in self.todo}
        for name, start in self.at.items():
            records = world.partitions[name][start : start + world.chance.randrange(1, 4)]
            for offset, record in enumerate(records, start):
                self.batch[world.bucket_of[record.stream]].append((record.stream, name, offset, record.data))
            self.next[name] = start + len(records)


class RecordingHub(Hub):
    """The hub, with what it pushes written down instead of framed."""

    def __init__(self, keys: Keys) -> None:
        super().__init__(keys)
        self.pushed: dict[str, list[Message]] = {}
        self.holes: set[str] = set()

    def _push(self, audience: Audience, messages: Iterable[Message]) -> None:
        messages = list(messages)
        self.pushed.setdefault(audience.name.name, []).extend(messages)
        super()._push(audience, messages)

    def filled(self, audience: Audience, filled: Filled) -> None:
        if filled.hole:
            self.holes.add(audience.name.name)
        super().filled(audience, filled)


class Client:
    """A member without a socket."""

    def __init__(self) -> None:
        self.wishes = PLAIN
        self.opened_us = 0
        self.audience: Audience | None = None
        self.is_open = False

    def write(self, data: bytes) -> None: ...

    def write_conflated(self, due: Sequence[Due], joined: bytes, *, is_global: bool) -> None:
        self.write(joined)

    def write_events(self, due: Sequence[Due], *, is_global: bool) -> None: ...

    def subscribed(self) -> None:
        self.is_open = True

    def close(self, code: CloseCode, reason: str | None = None) -> None: ...


class Replica:
    """A gateway replica: the real hub and history, on links that are lost and late."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.hub = RecordingHub(world.keys)
        self.history = History(_SETTINGS, self.hub, "model")
        self.client = Client()
        for user in USERS:
            self.hub.join(Client(), user)
        self.audiences = {audience.name.name: audience for audience in self.hub.audiences}
        self.first: dict[str, dict[bytes, int]] = {}
        """For each stream the next offsets at the moment it was joined."""
        self.queue: list[tuple[Audience, Any]] = []
        self.is_listening = False
        self.unread: list[Audience] = []
        self.read: tuple[Audience, int, Meta, Any] | None = None

    # The live link

    def offer(self, stream: str, payload: bytes) -> None:
        if self.is_listening and self.world.chance.random() > 0.1:
            self.queue.append((self.audiences[stream], payload))

    def subscribe(self) -> None:
        """Make the link anew: what the old one had brought is still taken, or lost with it."""
        if self.world.chance.random() < 0.5:
            self.queue = []
        self.queue = [entry for entry in self.queue if isinstance(entry[1], bytes)]
        self.is_listening = True
        self.unread = list(self.audiences.values())

    def read_one_meta(self) -> None:
        """The transaction after a confirmed subscription; its reply comes in its place among messages."""
        if self.is_listening and self.unread:
            audience = self.unread.pop(0)
            node = self.world.nodes[audience.name.bucket]
            self.queue.append((audience, (node.meta_reply(audience.name.name), node.life_reply())))

    def take_one(self) -> None:
        if not self.queue:
            return
        audience, what = self.queue.pop(0)
        if isinstance(what, bytes):
            self.hub.receive(audience.channel.encode(), what)
            return
        meta, life = what
        self.first.setdefault(audience.name.name, parse_next(life))
        self.hub.joined(audience, parse_meta(meta), parse_next(life))

    # The history link

    def read_history(self) -> None:
        """As History._read does, in two steps: Redis reads now, the reply is taken later."""
        if self.read is not None:
            if self.world.chance.random() > 0.1:  # else the link was lost
                self.history._took(*self.read)
            self.read = None
        elif self.history._requested:
            audience, start = next(iter(self.history._requested.items()))
            after = audience.stream.seq if start is None else start
            node, stream = self.world.nodes[audience.name.bucket], audience.name.name
            page = node.page_reply(stream, after, self.world.faults.page_messages)
            self.read = (audience, after, node.whole_meta(stream), page)

    def settle(self) -> str | None:
        """The faults are over. Gives what is still wrong after a bounded number of reads."""
        while self.queue:
            self.take_one()
        self.subscribe()
        while self.unread:
            self.read_one_meta()
        while self.queue:
            self.take_one()
        for _ in range(READS_TO_SETTLE * self.world.count // self.world.faults.page_messages + READS_TO_SETTLE):
            if not self.history._requested:
                break
            self.read_history()
        stuck = [name for name, audience in self.audiences.items() if not audience.stream.is_live]
        return f"{stuck} never catch up" if stuck else None

    def judge(self) -> str | None:
        """The oracle: everything published since a stream was joined, once, in its partition's order."""
        for stream, audience in self.audiences.items():
            got = [(message.partition.decode(), message.offset, message.data) for message in self.hub.pushed[stream]]
            if len(set(got)) < len(got):
                return f"{stream}: a duplicate"
            first = {name.decode(): offset for name, offset in self.first[audience.name.name].items()}
            want = {
                (name, offset, record.data)
                for name, records in self.world.partitions.items()
                for offset, record in enumerate(records)
                if record.stream == stream and offset >= first.get(name, 0)
            }
            if set(got) - want:
                return f"{stream}: {sorted(set(got) - want)[:3]} too many"
            if want - set(got) and stream not in self.hub.holes:
                return f"{stream}: {sorted(want - set(got))[:3]} missing"
            for name in PARTITIONS:
                offsets = [offset for partition, offset, _ in got if partition == name]
                if offsets != sorted(offsets):
                    return f"{stream}: disorder"
        return None


_SETTINGS: Final = RedisSettings(_env_file=None)  # type: ignore[call-arg]


def run(seed: int, faults: Faults = Faults(), steps: int = 300) -> str | None:
    """One world. Gives what went wrong, or None."""
    chance = random.Random(seed)
    world = World(chance, faults)
    relays = [Relay(world, PARTITIONS), Relay(world, ())]
    world.replicas += [Replica(world), Replica(world)]
    for replica in world.replicas:
        replica.subscribe()
    for _ in range(steps):
        step(world, relays)
    relays[0].assign(PARTITIONS)
    for _ in range(world.count * len(world.nodes) + len(world.nodes)):
        relays[0].step()
    for replica in world.replicas:
        wrong = replica.settle() or replica.judge()
        if wrong:
            return f"seed {seed}: {wrong}"
    return None


def step(world: World, relays: list[Relay]) -> None:
    """One thing happens."""
    chance = world.chance
    dice = chance.random()
    replica = chance.choice(world.replicas)
    if dice < 0.22:
        world.produce()
    elif dice < 0.46:
        chance.choice(relays).step()
    elif dice < 0.66:
        replica.take_one()
    elif dice < 0.76:
        replica.read_history()
    elif dice < 0.82:
        replica.read_one_meta()
    elif dice < 0.85:  # killed and begun anew, or its partitions moved; the old owner is a zombie
        partitions = PARTITIONS if chance.random() < 0.5 else (chance.choice(PARTITIONS),)
        relays[chance.randrange(2)] = Relay(world, partitions)
    elif dice < 0.88:
        replica.is_listening = False
    elif dice < 0.92:
        replica.subscribe()
    elif dice < 0.96:
        bucket = chance.choice(list(world.nodes))
        world.lagging[bucket] = world.nodes[bucket].copy()
    elif dice < 0.98:
        world.fail_over()
    elif dice < 0.99:
        world.lose_all()
    elif len(world.replicas) < 4:
        world.replicas.append(Replica(world))
        world.replicas[-1].subscribe()
