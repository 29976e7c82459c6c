"""Events per second through one relay: `python -m bench.relay_rate [--events 200000] [--broadcast 0.5]`.

A filled broker (librdkafka's mock cluster), an empty Valkey and the relay are separate processes;
the relay has one core, Valkey and the broker share the other. Timed from the first event in Redis
to the last. Every event is then looked for in Redis: published means there, once.
"""

import argparse
import asyncio
import json
import os
import time
import uuid
from pathlib import Path
from typing import Any

import redis
from confluent_kafka import Producer

from demo.broker import add_broker, bootstrap
from demo.process import Process, Processes
from demo.stack import add_relay
from demo.valkey import add_valkey, redis_url
from shared.keys import GLOBAL_BUCKET, Keys

BROADCAST = ("regime-events", "alert-events")
TARGETED = ("risk-events", "execution-events")
TYPES = dict(zip(BROADCAST + TARGETED, ("regime_change", "market_alert", "risk_alert", "order_executed"), strict=True))
POLL_SECONDS = 0.02
KEYS = Keys()


def event(topic: str, number: int, user: str) -> bytes:
    """About 250 bytes, of the shape that the platform's publishers send."""
    fields: dict[str, Any] = {
        "event_id": str(uuid.UUID(int=number)),
        "event_type": TYPES[topic],
        "timestamp": "2026-01-01T00:00:00.000000+00:00",
        "priority": 3,
        "severity": "high",
        "message": "Portfolio drawdown exceeded the limit of 5 %",
        "metadata": {},
    }
    if topic in TARGETED:
        fields["user_id"] = user
    return json.dumps(fields).encode()


def most_events(broadcast: float) -> int:
    """How many events fit in the broker, which keeps 5 MiB of a partition, 8 partitions a kind."""
    return int(8 * 4.5 * 1024 * 1024 / 330 / max(broadcast, 1 - broadcast))


def fill(broker: str, events: int, broadcast: float, users: int) -> int:
    """Publish `events` events, spread evenly; gives their bytes."""
    producer = Producer({"bootstrap.servers": broker, "linger.ms": 5, "queue.buffering.max.messages": 1_000_000})
    size = 0
    for number in range(events):
        topics = BROADCAST if number % 100 < broadcast * 100 else TARGETED
        user = f"user-{number * 7919 % users}"
        topic = topics[number // 100 % 2]
        value = event(topic, number, user)
        size += len(value)
        producer.produce(topic, value, user, partition=number % 4)
        if number % 1000 == 0:
            producer.poll(0)
    assert producer.flush(60) == 0
    return size


def pin(process: Process, core: int) -> None:
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


def cpu_seconds(process: Process) -> float:
    words = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


async def measure(options: argparse.Namespace) -> None:
    async with Processes() as processes:
        broker, valkey = add_broker(processes).start(), add_valkey(processes).start()
        await asyncio.gather(broker.wait_until_ready(), valkey.wait_until_ready())
        events = min(options.events, most_events(options.broadcast))
        size = fill(bootstrap(broker), events, options.broadcast, options.users)
        env = {"START_FROM": "earliest", "HISTORY_MESSAGES_GLOBAL": "10000000", "HISTORY_MESSAGES_USER": "1000000"}
        env |= {"REDIS_USER_BUCKETS": "1", "LOG_LEVEL": "WARNING"}
        relay = add_relay(processes, brokers=bootstrap(broker), redis=redis_url(valkey), env=env).start()
        pin(valkey, 1)
        pin(broker, 1)
        pin(relay, 0)
        client: Any = redis.Redis(port=valkey.port)
        life = KEYS.life(GLOBAL_BUCKET)

        def published() -> int:
            return sum(int(offset) for name, offset in client.hgetall(life).items() if name.startswith(b"n:"))

        while (first := published()) == 0:
            relay.check()
            await asyncio.sleep(POLL_SECONDS)
        measured = (relay, valkey, broker)
        started, cpu = time.monotonic(), [cpu_seconds(process) for process in measured]
        while (now := published()) < events:
            relay.check()
            assert time.monotonic() < started + 120, f"only {now} of {events} came through"
            await asyncio.sleep(POLL_SECONDS)
        took = time.monotonic() - started
        cores = [(cpu_seconds(process) - before) / took for process, before in zip(measured, cpu, strict=True)]
        await asyncio.sleep(1.5)  # the last batch's other bucket, at the latest with the next beat
        logged = sum(client.xlen(key) for key in client.scan_iter("*:log:*", count=10_000))
        assert logged == events, f"{logged} of {events} events are in Redis"
        rate = (events - first) / took
        print(
            f"{rate:,.0f} events/s ({events - first:,} in {took:.2f} s, {size // events} bytes each, "
            f"{options.broadcast:.0%} broadcast, {options.users:,} users); "
            f"of a core: relay {cores[0]:.0%}, Valkey {cores[1]:.0%}, broker {cores[2]:.0%}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.relay_rate", description=__doc__)
    parser.add_argument("--events", type=int, default=200_000, help="at most; fewer when the broker cannot keep them")
    parser.add_argument("--broadcast", type=float, default=0.5, help="share of events that are for everyone")
    parser.add_argument("--users", type=int, default=1000)
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
