"""`python -m relay` itself, against a Kafka-protocol broker and a real Valkey."""

import asyncio
import json
import re
import socket
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis
from confluent_kafka import Consumer, Producer, TopicPartition
from harness.waiting import eventually

from demo.broker import add_broker, bootstrap
from demo.process import Process, Processes
from demo.stack import add_relay
from demo.valkey import add_valkey, redis_url
from shared.keys import GLOBAL, Keys
from shared.message import Message, parse_message

pytestmark = pytest.mark.scenario

KEYS = Keys()
USERS = [f"user-{n}" for n in range(5)]


class System:
    """A broker, a Valkey and a relay, and what was published so far, by partition and offset."""

    def __init__(self, processes: Processes, broker: Process, valkey: Process) -> None:
        self.processes = processes
        self.broker = bootstrap(broker)
        self.valkey = valkey
        self.redis: Any = redis.Redis(port=valkey.port)
        self.sent: dict[tuple[str, int], tuple[str, bytes | None]] = {}
        self._producer = Producer({"bootstrap.servers": self.broker, "linger.ms": 0})

    def relay(self, name: str = "relay", **env: str) -> Process:
        return add_relay(self.processes, brokers=self.broker, redis=redis_url(self.valkey), name=name, env=env)

    def send(self, topic: str, value: bytes | None, key: str | None = None, headers: Any = None) -> None:
        def delivered(error: Any, message: Any) -> None:
            assert error is None, error
            self.sent[f"{message.topic()}/{message.partition()}", message.offset()] = (topic, value)

        self._producer.produce(topic, value, key, headers=headers or [], on_delivery=delivered)
        self._producer.poll(0)

    def flush(self) -> None:
        assert self._producer.flush(10) == 0

    def messages(self, stream: Any) -> list[Message]:
        return [parse_message(fields[b"m"]) for _, fields in self.redis.xrange(KEYS.log(stream))]

    def all_messages(self) -> dict[str, list[Message]]:
        return {user: self.messages(KEYS.user_stream(user)) for user in USERS} | {"global": self.messages(GLOBAL)}

    def check_every_good_event_is_there_once_in_order_byte_for_byte(self) -> None:
        self.flush()
        streams = self.all_messages()
        found: dict[tuple[str, int], bytes] = {}
        for name, messages in streams.items():
            assert [message.seq for message in messages] == list(range(1, len(messages) + 1)), name
            highest: dict[bytes, int] = defaultdict(lambda: -1)
            for message in messages:
                assert message.offset > highest[message.partition], f"{name}: {message.id} again or out of order"
                highest[message.partition] = message.offset
                found[message.partition.decode(), message.offset] = message.data
        good = {source: value for source, (_, value) in self.sent.items() if value and value.startswith(b"{")}
        assert found == good


@pytest.fixture
async def system() -> AsyncIterator[System]:
    async with Processes() as processes:
        broker, valkey = add_broker(processes).start(), add_valkey(processes).start()
        await asyncio.gather(broker.wait_until_ready(), valkey.wait_until_ready())
        yield System(processes, broker, valkey)


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    await eventually(lambda: bool(condition()), "it to come to be", seconds=seconds, poll_seconds=0.02)


def get(process: Process, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{process.port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def dead_letters(bootstrap_servers: str, count: int) -> list[Any]:
    """Dead letters of `count` records, by where they came from. One may come twice."""
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": "test"})
    consumer.assign([TopicPartition("notification-dead-letters", number, 0) for number in range(4)])
    found: list[Any] = []
    origins: set[Any] = set()
    deadline = time.monotonic() + 10
    while len(origins) < count and time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is not None and message.error() is None:
            found.append(message)
            headers = dict(message.headers())
            origins.add((headers["dlq-topic"], headers["dlq-partition"], headers["dlq-offset"]))
    consumer.close()
    return sorted(found, key=lambda message: int(dict(message.headers())["dlq-offset"]))


async def test_a_relay_killed_under_load_loses_doubles_and_reorders_nothing(system: System) -> None:
    relay = system.relay(
        HISTORY_MESSAGES_GLOBAL="1000000", HISTORY_MESSAGES_USER="1000000", REDPANDA_SESSION_SECONDS="6"
    ).start()
    await relay.wait_until_ready()
    stop = asyncio.Event()

    async def load() -> None:
        number = 0
        while not stop.is_set():
            for _ in range(10):
                number += 1
                user = USERS[number % 5]
                body = json.dumps({"user_id": user, "n": number, "ü": "\n"}, ensure_ascii=number % 2 == 0).encode()
                system.send(("risk-events", "execution-events")[number % 2], body, user)
                if number % 3 == 0:
                    system.send(("regime-events", "alert-events")[number % 2], b'{ "n" : %d.50 }' % number)
                if number % 50 == 0:
                    system.send("risk-events", b"poison %d" % number, user)
                    system.send("risk-events", None, user)
            await asyncio.sleep(0.02)

    loading = asyncio.create_task(load())
    for _ in range(2):
        had = system.redis.xlen(KEYS.log(GLOBAL))
        await until(lambda had=had: system.redis.xlen(KEYS.log(GLOBAL)) > had + 50)
        await relay.kill()
        await relay.start().wait_until_ready()
    stop.set()
    await loading
    system.flush()
    good = sum(value is not None and value.startswith(b"{") for _, value in system.sent.values())
    await until(lambda: sum(map(len, system.all_messages().values())) >= good)
    system.check_every_good_event_is_there_once_in_order_byte_for_byte()
    assert good > 500
    poison = {source for source, (_, value) in system.sent.items() if value and value.startswith(b"poison")}
    letters = dead_letters(system.broker, len(poison))
    origins = {(f"{h['dlq-topic'].decode()}/{h['dlq-partition'].decode()}", int(h["dlq-offset"]))
               for h in (dict(letter.headers()) for letter in letters)}  # fmt: skip
    assert origins == poison


async def test_a_dead_letter_has_everything_the_record_had(system: System) -> None:
    relay = system.relay(MAX_EVENT_BYTES="300").start()
    await relay.wait_until_ready()
    system.send("risk-events", b"\xff\xfe", "key-1", [("trace", b"1"), ("trace", b"\xff")])
    system.flush()
    system.send("risk-events", b'{"user_id":""}', "key-1")
    system.send("risk-events", b'{"user_id":"user-1","x":"' + b"x" * 300 + b'"}', "key-1")
    system.send("risk-events", b'{"user_id":"user-1"}', "key-1")
    system.flush()
    await until(lambda: system.messages(KEYS.user_stream("user-1")))
    first, *others = dead_letters(system.broker, 3)
    assert (first.key(), first.value()) == (b"key-1", b"\xff\xfe")
    headers = first.headers()
    assert headers[:2] == [("trace", b"1"), ("trace", b"\xff")]
    assert dict(headers[2:]).keys() == {"dlq-topic", "dlq-partition", "dlq-offset", "dlq-timestamp", "dlq-reason"}
    assert dict(headers)["dlq-topic"] == b"risk-events"
    reasons = [dict(letter.headers())["dlq-reason"] for letter in (first, *others)]
    assert reasons == [b"not_utf8", b"no_user_id", b"too_large"]
    assert "notify_relay_events_total{" in get(relay, "/metrics")[1]

    def answered(request: str) -> bool:
        line = rf'^notify_relay_redpanda_round_trip_seconds_count{{request="{request}"}} [1-9]'
        return re.search(line, get(relay, "/metrics")[1], re.MULTILINE) is not None

    await until(lambda: answered("commit") and answered("ends"))


async def test_a_relay_starts_at_the_end_the_first_time_and_where_it_was_later(system: System) -> None:
    system.send("regime-events", b'{"n":1}')
    system.flush()
    system.sent.clear()
    relay = system.relay().start()
    await relay.wait_until_ready()
    system.send("regime-events", b'{"n":2}')
    system.flush()
    await until(lambda: system.messages(GLOBAL))
    assert await relay.terminate() == 0
    system.send("regime-events", b'{"n":3}')
    system.flush()
    await relay.start().wait_until_ready()
    await until(lambda: len(system.messages(GLOBAL)) == 2)
    system.check_every_good_event_is_there_once_in_order_byte_for_byte()


async def test_an_event_before_the_first_commit_survives_a_redis_that_loses_everything(system: System) -> None:
    relay = system.relay().start()
    await relay.wait_until_ready()
    assert await relay.terminate() == 0  # has committed where it started
    await system.valkey.kill()
    system.send("regime-events", b'{"n":1}')
    system.flush()
    await system.valkey.start().wait_until_ready()
    await relay.start().wait_until_ready()
    await until(lambda: system.messages(GLOBAL))
    system.check_every_good_event_is_there_once_in_order_byte_for_byte()


async def test_the_first_start_may_begin_at_the_beginning(system: System) -> None:
    system.send("regime-events", b'{"n":1}')
    system.flush()
    await system.relay(START_FROM="earliest").start().wait_until_ready()
    await until(lambda: system.messages(GLOBAL))
    system.check_every_good_event_is_there_once_in_order_byte_for_byte()


async def test_a_redis_that_comes_back_empty_gets_back_what_it_had(system: System) -> None:
    relay = system.relay().start()
    await relay.wait_until_ready()
    for number in range(100):
        system.send("risk-events", b'{"user_id":"user-%d","n":%d}' % (number % 5, number), f"user-{number % 5}")
        system.send("alert-events", b'{"n":%d}' % number)
    system.flush()
    await until(lambda: sum(map(len, system.all_messages().values())) >= 200)
    await system.valkey.restart()
    await until(lambda: sum(map(len, system.all_messages().values())) >= 200)
    system.check_every_good_event_is_there_once_in_order_byte_for_byte()
    assert relay.is_running


async def test_without_servers_it_waits_and_says_so(system: System) -> None:
    await system.valkey.kill()
    relay = system.relay().start()
    await until(lambda: "redis_not_usable" in relay.log())
    await until(lambda: relay.is_running and _listens(relay.port))
    assert get(relay, "/readyz") == (503, '{"ready":false,"reason":"waiting for Redis"}')
    assert get(relay, "/livez")[0] == 200
    assert json.loads(get(relay, "/health")[1]) == {
        "status": "degraded", "service": "notification", "consumer_running": False,
    }  # fmt: skip
    await system.valkey.start().wait_until_ready()
    await relay.wait_until_ready()
    assert json.loads(get(relay, "/health")[1])["status"] == "healthy"
    assert relay.log().count("redis_not_usable") < 3


async def test_without_a_broker_it_waits_and_ends_when_told_to(system: System) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening: refuses
        relay = system.relay(REDPANDA_BROKERS=f"127.0.0.1:{unused.getsockname()[1]}").start()
        await until(lambda: "redpanda_not_usable" in relay.log())
        assert get(relay, "/readyz")[0] == 503
        await until(lambda: system.redis.hget(KEYS.life("g"), "beat"))
        beat = int(system.redis.hget(KEYS.life("g"), "beat"))
        await until(lambda: int(system.redis.hget(KEYS.life("g"), "beat")) > beat)
        assert await relay.terminate() == 0


async def test_a_wrong_setting_ends_it_in_one_line(system: System) -> None:
    relay = system.relay(DROP_FIELDS="nothing").start()
    assert await relay.wait(60) == 2
    assert relay.log().count("\n") == 1
    assert "DROP_FIELDS" in relay.log()


async def test_a_redis_of_another_layout_ends_it_in_one_line(system: System) -> None:
    system.redis.set(KEYS.layout, 64)
    relay = system.relay().start()
    assert await relay.wait(60) == 1
    assert "REDIS_USER_BUCKETS=64" in relay.log()
    assert "Traceback" not in relay.log()


async def test_a_taken_port_ends_it_with_an_error(system: System) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        relay = system.relay(RELAY_HTTP_PORT=str(taken.getsockname()[1])).start()
        assert await relay.wait(60) not in (0, None)
    assert "already in use" in relay.log()
    assert "Traceback" not in relay.log()


def _listens(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0
