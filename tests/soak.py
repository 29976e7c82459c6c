"""Everything that may fail fails, at random and under load, for as long as you like.

    make soak MINUTES=10            SEED=7 for the same faults again, RATE=200 events a second,
                                    SCENARIO_STACK=real for Apache Kafka and redis-server

A relay (two on Apache Kafka), three replicas behind proxies, clients that stay on the first of them
(plain, notify.v1, event streams) and clients of notify.v1 that drop and resume everywhere. Every
minute, and at the end, nobody may have lost, doubled or disordered anything. Exits with 0 then.
"""

import argparse
import asyncio
import contextlib
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from harness.clients import AiohttpClient, ThreadClient, WebsocketsClient  # noqa: E402
from harness.servers import chosen_kind, start_apache_kafka  # noqa: E402
from harness.stage import Load, Stage  # noqa: E402
from harness.v1 import AiohttpV1, EventSourceClient, V1Client, WebsocketsV1  # noqa: E402
from harness.waiting import eventually  # noqa: E402
from harness.wandering import wandering  # noqa: E402

from demo.process import Process, Processes  # noqa: E402
from demo.proxy import Proxy  # noqa: E402

CHECK_SECONDS = 60.0
SETTLE_SECONDS = 120.0
WANDERERS = 6


class Soak:
    """One run."""

    def __init__(self, stage: Stage, chance: random.Random, rate: int) -> None:
        self.stage = stage
        self.chance = chance
        self.rate = rate
        self.faults: Counter[str] = Counter()
        self.restarts: Counter[str] = Counter()
        self.checks = 0
        self.started = time.monotonic()
        self.relays: list[Process] = []
        self.replicas: list[Process] = []
        self.links: list[Proxy] = []
        self.relay_redis: Proxy
        self.relay_kafka: Proxy
        self.wanderers: list[V1Client] = []
        self.streams: list[EventSourceClient] = []
        """They wander, too."""
        self.has_snapshot = False

    async def set_up(self) -> None:
        """Start services and connect clients."""
        stage = self.stage
        self.relay_redis, self.relay_kafka = await stage.redis_proxy(), await stage.kafka_proxy()
        self.links = [await stage.redis_proxy() for _ in range(3)]
        # The mock cluster often fails a group of two.
        count = 2 if stage.kind == "real" else 1
        # After a loss of everything the log is rebuilt partition by partition. One that keeps less than the
        # window has not the newest of each: who resumes then is told so, and may have missed something.
        history = {"HISTORY_MESSAGES_GLOBAL": "1000000", "HISTORY_MESSAGES_USER": "1000000"}
        self.relays = [
            stage.add_relay(f"relay-{number + 1}", redis=self.relay_redis, kafka=self.relay_kafka, env=history)
            for number in range(count)
        ]
        drain = {"DRAIN_DELAY_SECONDS": "0", "DRAIN_SECONDS": "1", "HEARTBEAT_SECONDS": "2"}
        self.replicas = [
            stage.add_gateway(f"gateway-{number + 1}", redis=link, env=drain) for number, link in enumerate(self.links)
        ]
        await stage.start(*self.replicas, self.relays[0])
        await stage.start(*self.relays[1:])
        await stage.starts_are_committed()
        first = self.replicas[0]
        for kind in (WebsocketsClient, AiohttpClient, ThreadClient, WebsocketsV1, EventSourceClient):
            for user in stage.users:
                await stage.connect(user, first, kind)
        for number in range(WANDERERS):
            kind = (WebsocketsV1, AiohttpV1)[number % 2]
            client = await stage.connect(stage.users[number % 2], self.replicas[number % 3], kind)
            assert isinstance(client, V1Client)
            self.wanderers.append(client)
        for user in stage.users:
            client = await stage.connect(user, first, EventSourceClient)
            assert isinstance(client, EventSourceClient)
            self.streams.append(client)

    async def run(self, seconds: float) -> None:
        """Load and faults, with a check now and then."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            everybody = [*self.wanderers, *self.streams]
            async with self.stage.load(self.stage.users, self.rate) as load, wandering(everybody, self.replicas):
                await self._break_things(min(left, CHECK_SECONDS), load)
                await self._all_is_well()
            began = time.monotonic()
            await self.stage.exact(seconds=SETTLE_SECONDS)
            self.checks += 1
            self._say(f"exact after {time.monotonic() - began:.0f} s of settling")

    async def _break_things(self, seconds: float, load: Load) -> None:
        end, said_at = time.monotonic() + seconds, time.monotonic()
        faults = list(self._faults)
        while time.monotonic() < end:
            fault = self.chance.choice(faults)
            name = fault.__name__.strip("_").replace("_", " ")
            self.faults[name] += 1
            await fault()
            await self._supervise()
            await asyncio.sleep(self.chance.uniform(0.2, 2.5))
            if time.monotonic() - said_at > 10:
                said_at = time.monotonic()
                self._say(f"{load.published} events in this round, last fault: {name}")

    async def _supervise(self) -> None:
        """Do what a supervisor does: start again what ended by itself."""
        for service in (*self.relays, *self.replicas):
            if service.returncode is not None:
                self.restarts[service.name] += 1
                service.start()

    async def _all_is_well(self) -> None:
        """End the faults."""
        for proxy in (*self.links, self.relay_redis, self.relay_kafka):
            proxy.heal()
        await self._supervise()
        for service in (*self.relays, *self.replicas):
            await eventually(partial(self._is_ready, service), f"{service.name} to be ready", seconds=60)

    async def _is_ready(self, service: Process) -> bool:
        await self._supervise()  # one may end by itself meanwhile, too
        return await service.is_ready()

    # What may happen

    @property
    def _faults(self) -> Sequence[Callable[[], Awaitable[None]]]:
        return (
            self._relay_killed, self._relay_frozen, self._relay_cut_off_from_redis, self._relay_cut_off_from_kafka,
            self._redis_emptied, self._redis_set_back, self._redis_connections_killed,
            self._replica_cut_off, self._replica_deaf, self._replica_slow, self._replica_killed, self._replica_drained,
        )  # fmt: skip

    def _pause(self, low: float, high: float) -> Awaitable[None]:
        return asyncio.sleep(self.chance.uniform(low, high))

    async def _relay_killed(self) -> None:
        relay = self.chance.choice(self.relays)
        if relay.is_running:
            await relay.kill()
        await self._pause(0, 1)
        relay.start()

    async def _relay_frozen(self) -> None:
        relay = self.chance.choice(self.relays)
        if relay.is_running:
            relay.signal(signal.SIGSTOP)
            await self._pause(0.2, 8)
            relay.signal(signal.SIGCONT)

    async def _relay_cut_off_from_redis(self) -> None:
        self.relay_redis.refuse()
        await self._pause(0, 2)
        self.relay_redis.heal()

    async def _relay_cut_off_from_kafka(self) -> None:
        self.relay_kafka.cut()

    async def _redis_emptied(self) -> None:
        await self.stage.redis.kill()
        await self._pause(0, 1)
        await self.stage.redis.restart()

    async def _redis_set_back(self) -> None:
        """To what it had a while ago."""
        self.stage.redis_control.save_snapshot()
        await self._pause(0.2, 2)
        await self.stage.redis.kill()
        self.stage.redis_control.put_snapshot_back()
        await self._pause(0, 1)
        await self.stage.redis.restart()
        (self.stage.redis_control.folder / "dump.rdb").unlink(missing_ok=True)

    async def _redis_connections_killed(self) -> None:
        self.stage.redis_control.kill_clients()

    async def _replica_cut_off(self) -> None:
        link = self.chance.choice(self.links)
        link.refuse()
        await self._pause(0, 2)
        link.heal()

    async def _replica_deaf(self) -> None:
        link = self.chance.choice(self.links)
        link.deaf()
        await self._pause(1, 6)
        link.heal()

    async def _replica_slow(self) -> None:
        link = self.chance.choice(self.links)
        link.slow(50_000)
        await self._pause(0.5, 3)
        link.heal()

    async def _replica_killed(self) -> None:
        replica = self.chance.choice(self.replicas[1:])
        if replica.is_running:
            await replica.kill()
        await self._pause(0, 1)
        replica.start()

    async def _replica_drained(self) -> None:
        replica = self.chance.choice(self.replicas[1:])
        if replica.is_running:
            await replica.terminate()
        replica.start()

    # What is told

    def _say(self, text: str) -> None:
        passed = time.monotonic() - self.started
        resumes = sum(len(client.knowledge.welcomes) - 1 for client in self.wanderers)
        print(
            f"{passed:5.0f} s  {len(self.stage.oracle.events):7,} events  {self.faults.total():4} faults  "
            f"{resumes:5} resumes  {text}",
            flush=True,
        )

    def report(self) -> None:
        welcomes = [welcome for client in self.wanderers for welcome in client.knowledge.welcomes[1:]]
        recovered = sum(welcome["recovered"] for welcome in welcomes)
        known = sum(client.knowledge.known for client in self.wanderers) + sum(one.known for one in self.streams)
        delivered = sum(len(client.frames) for client in self.stage.clients)
        table = {
            "events published and acknowledged": f"{len(self.stage.oracle.events):,}",
            f"delivered to {len(self.stage.clients)} clients": f"{delivered:,}",
            "clients resumed on a random replica": f"{len(welcomes):,}, {recovered:,} of them recovered",
            "known events dropped after a resync": f"{known:,}",
            "checks of all that was published": f"{self.checks:,}",
        }
        print()
        for what, count in table.items():
            print(f"{what:40} {count}")
        for name, times in sorted(self.faults.items()):
            print(f"    {times:4}  {name}")
        for name, times in sorted(self.restarts.items()):
            print(f"    {times:4}  {name} ended by itself and was started again")


async def main(minutes: float, seed: int, rate: int) -> int:
    print(f"soak: {minutes:g} minutes, seed {seed}, {rate} events/s, {chosen_kind()} servers", flush=True)
    servers = Processes()
    stage: Stage | None = None
    try:
        kafka = await start_apache_kafka(servers) if chosen_kind() == "real" else None
        stage = await Stage.open(chosen_kind(), kafka)
        soak = Soak(stage, random.Random(seed), rate)
        await soak.set_up()
        try:
            await soak.run(60 * minutes)
        except (AssertionError, TimeoutError) as error:
            soak.report()
            print(f"\nFAILED with seed {seed}: {error}\n", flush=True)
            for name, log in stage.logs().items():
                print(f"--- {name}\n" + "\n".join(log.splitlines()[-40:]))
            return 1
        soak.report()
        print("nothing was lost, doubled or out of order")
        return 0
    finally:
        if stage is not None:
            with contextlib.suppress(AssertionError):
                await stage.aclose()
        servers.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--rate", type=int, default=150, help="events a second")
    arguments = parser.parse_args()
    sys.exit(asyncio.run(main(arguments.minutes, arguments.seed, arguments.rate)))
