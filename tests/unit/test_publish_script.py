"""The relay's scripts on real servers: Valkey, and Redis when this machine has one."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from relay.publisher import Script
from shared.keys import GLOBAL, Keys, StreamName
from shared.message import encode_body, parse_message

KEYS = Keys()
ALICE = KEYS.user_stream("alice")
BOB = KEYS.user_stream("bob")
RISK = "risk-events/2"
ORDERS = "execution-events/0"
REGIME = "regime-events/1"
TYPES = {RISK: "risk_alert", ORDERS: "order_executed", REGIME: "regime_change"}

Message = tuple[str, int]
Hash = dict[bytes, bytes]


class Bucket:
    """One bucket of an empty server, and the scripts on it."""

    def __init__(self, client: "redis.Redis[bytes]", name: str) -> None:
        self.redis: Any = client
        self.name = name
        self.life_key = KEYS.life(name)
        self.epoch = self.begin("e1")

    def run(self, script: str, keys: list[str], arguments: list[Any]) -> Any:
        return self.redis.eval(Script(script).source, len(keys), *keys, *arguments)

    def begin(self, epoch: str) -> str:
        found, _ = self.run("begin.lua", [self.life_key], [epoch])
        return str(found.decode())

    def publish(
        self,
        streams: dict[StreamName, list[Message]],
        *,
        nexts: dict[str, int] | None = None,
        epoch: str | None = None,
        beat: bool = False,
        log_length: int = 1000,
    ) -> Any:
        partitions = list(nexts or TYPES)
        keys, arguments = [self.life_key], []
        for stream, messages in streams.items():
            keys += [KEYS.log(stream), KEYS.meta(stream)]
            arguments += [KEYS.live(stream), len(messages)]
            for partition, offset in messages:
                body = encode_body(partition, offset, 1000, TYPES[partition], b'{"n":%d}' % offset)
                arguments += [partitions.index(partition) + 1, offset, body]
        if self.name == "g":
            keys.append(KEYS.last)
        head: list[Any] = [epoch or self.epoch, log_length, 3600, KEYS.beat(self.name) if beat else ""]
        head += [len(streams), len(partitions)]
        for partition in partitions:
            head += [partition, (nexts or {}).get(partition, 0), TYPES[partition]]
        return self.run("publish.lua", keys, head + arguments)

    def life(self) -> Hash:
        return dict(self.redis.hgetall(self.life_key))

    def meta(self, stream: StreamName) -> Hash:
        return dict(self.redis.hgetall(KEYS.meta(stream)))

    def log(self, stream: StreamName) -> list[tuple[str, int, str, int]]:
        """(epoch, seq, partition, offset) of each message; the entry's id and fields are checked."""
        entries = []
        for entry_id, fields in self.redis.xrange(KEYS.log(stream)):
            assert list(fields) == [b"m"]
            message = parse_message(fields[b"m"])
            assert entry_id == b"%d-0" % message.seq
            assert message.data == b'{"n":%d}' % message.offset
            entries.append((message.epoch.decode(), message.seq, message.partition.decode(), message.offset))
        return entries

    def everything(self) -> dict[bytes, bytes]:
        return {key: self.redis.dump(key) for key in self.redis.keys("*")}


@pytest.fixture
def client(each_server: int) -> Iterator["redis.Redis[bytes]"]:
    with contextlib.closing(redis.Redis(port=each_server)) as client:
        client.config_set("maxmemory", "0")
        client.flushall()
        yield client


@pytest.fixture
def users(client: "redis.Redis[bytes]") -> Bucket:
    return Bucket(client, "u0")


@pytest.fixture
def broadcast(client: "redis.Redis[bytes]") -> Bucket:
    return Bucket(client, "g")


# begin.lua


def test_the_first_relay_begins_an_epoch_and_the_others_adopt_it(users: Bucket) -> None:
    assert users.epoch == "e1"
    assert users.run("begin.lua", [users.life_key], ["e2"]) == [b"e1", 0]


@pytest.mark.parametrize("field", ["run_id", "master_replid"])
def test_another_server_or_promotion_begins_a_new_epoch_and_keeps_next(users: Bucket, field: str) -> None:
    users.publish({}, nexts={RISK: 7})
    users.redis.hset(users.life_key, field, "0123")
    assert users.run("begin.lua", [users.life_key], ["e2"]) == [b"e2", 1]
    life = users.life()
    assert (life[b"epoch"], life[b"n:" + RISK.encode()]) == (b"e2", b"7")
    info = users.redis.info()
    assert life[b"run_id"].decode() == info["run_id"]
    assert life[b"master_replid"].decode() == info["master_replid"]
    assert users.begin("e3") == "e2"


# publish.lua


def test_messages_are_numbered_logged_and_published_in_order(users: Bucket) -> None:
    listener = users.redis.pubsub()
    listener.ssubscribe(KEYS.live(ALICE))
    assert listener.get_sharded_message(timeout=5)["type"] == "ssubscribe"
    published = users.publish({ALICE: [(RISK, 4), (ORDERS, 9), (RISK, 5)], BOB: [(RISK, 3)]})
    assert published == [3, 1, 0]
    assert users.log(ALICE) == [("e1", 1, RISK, 4), ("e1", 2, ORDERS, 9), ("e1", 3, RISK, 5)]
    assert users.log(BOB) == [("e1", 1, RISK, 3)]
    assert users.meta(ALICE) == {
        b"epoch": b"e1", b"seq": b"3", b"o:risk-events/2": b"5", b"o:execution-events/0": b"9",
    }  # fmt: skip
    heard = [listener.get_sharded_message(timeout=5)["data"] for _ in range(3)]
    assert heard == [fields[b"m"] for _, fields in users.redis.xrange(KEYS.log(ALICE))]
    listener.close()


def test_what_a_stream_has_is_skipped_and_numbers_go_on(users: Bucket) -> None:
    users.publish({ALICE: [(RISK, 4), (RISK, 5)]})
    assert users.publish({ALICE: [(RISK, 4), (RISK, 5), (RISK, 6), (ORDERS, 0)]}) == [1, 1, 0]
    assert [entry[1:] for entry in users.log(ALICE)] == [(1, RISK, 4), (2, RISK, 5), (3, RISK, 6), (4, ORDERS, 0)]


def test_offsets_compare_as_numbers(users: Bucket) -> None:
    users.publish({ALICE: [(RISK, 9), (RISK, 10)]}, nexts={RISK: 11})
    assert users.publish({ALICE: [(RISK, 9), (RISK, 9_007_199_254_740_991)]}, nexts={RISK: 9}) == [1]
    assert users.meta(ALICE)[b"o:risk-events/2"] == b"9007199254740991"
    assert users.life()[b"n:risk-events/2"] == b"11"


def test_next_rises_and_never_falls(users: Bucket) -> None:
    for offset in (5, 12, 7):
        users.publish({}, nexts={RISK: offset})
    assert users.life()[b"n:risk-events/2"] == b"12"


def test_next_rises_past_records_that_were_not_published(users: Bucket) -> None:
    users.publish({ALICE: [(RISK, 4)]}, nexts={RISK: 40})
    assert users.life()[b"n:risk-events/2"] == b"40"


def test_the_newest_broadcast_of_each_type_is_kept(broadcast: Bucket) -> None:
    broadcast.publish({GLOBAL: [(REGIME, 1), (REGIME, 2)]})
    last = broadcast.redis.hgetall(KEYS.last)
    assert {type_: parse_message(message).offset for type_, message in last.items()} == {b"regime_change": 2}
    assert parse_message(last[b"regime_change"]).seq == 2


def test_users_events_leave_no_last(users: Bucket) -> None:
    users.publish({ALICE: [(RISK, 1)]})
    assert not users.redis.exists(KEYS.last)


def test_a_log_is_bounded_and_expires_and_meta_stays(users: Bucket) -> None:
    for first in range(0, 2000, 100):
        users.publish({ALICE: [(RISK, offset) for offset in range(first, first + 100)]}, log_length=200)
    assert 200 <= users.redis.xlen(KEYS.log(ALICE)) < 500
    assert users.log(ALICE)[-1] == ("e1", 2000, RISK, 1999)
    assert 3500 < users.redis.ttl(KEYS.log(ALICE)) <= 3600
    assert users.redis.ttl(KEYS.meta(ALICE)) == -1


def test_a_beat_rises_and_is_heard(users: Bucket) -> None:
    listener = users.redis.pubsub()
    listener.ssubscribe(KEYS.beat("u0"))
    listener.get_sharded_message(timeout=5)
    users.publish({}, nexts={RISK: 3}, beat=True)
    users.publish({}, beat=True)
    assert [listener.get_sharded_message(timeout=5)["data"] for _ in range(2)] == [b"1", b"2"]
    assert users.life()[b"beat"] == b"2"
    listener.close()


@pytest.mark.parametrize("field", ["epoch", "run_id", "master_replid"])
def test_in_another_epoch_or_on_another_server_nothing_is_written(users: Bucket, field: str) -> None:
    users.publish({ALICE: [(RISK, 1)]}, nexts={RISK: 2})
    users.redis.hset(users.life_key, field, "other")
    before = users.everything()
    assert users.publish({ALICE: [(RISK, 2)]}, nexts={RISK: 3}, beat=True) == b"EPOCH"
    assert users.everything() == before


def test_epochs_compare_as_text(users: Bucket) -> None:
    users.redis.hset(users.life_key, "epoch", "0010")
    assert users.publish({ALICE: [(RISK, 1)]}, epoch="10") == b"EPOCH"
    assert users.publish({ALICE: [(RISK, 1)]}, epoch="1e1") == b"EPOCH"
    assert users.publish({ALICE: [(RISK, 1)]}, epoch="0010") == [1, 0, 0]


def test_on_an_empty_server_nothing_is_written(users: Bucket) -> None:
    users.redis.flushall()
    assert users.publish({ALICE: [(RISK, 2)]}, nexts={RISK: 3}) == b"EPOCH"
    assert users.redis.dbsize() == 0


def test_a_new_epoch_records_where_the_old_one_ended(users: Bucket) -> None:
    users.publish({ALICE: [(RISK, 1), (RISK, 2)]})
    users.redis.hset(users.life_key, "epoch", "e2")
    users.publish({ALICE: [(RISK, 2), (RISK, 3)], BOB: [(RISK, 5)]}, epoch="e2")
    assert users.log(ALICE) == [("e1", 1, RISK, 1), ("e1", 2, RISK, 2), ("e2", 3, RISK, 3)]
    assert users.meta(ALICE)[b"fork"] == b"e1:2"
    assert b"fork" not in users.meta(BOB)


def test_the_last_eight_forks_are_kept_oldest_first(users: Bucket) -> None:
    for number in range(1, 12):
        users.redis.hset(users.life_key, "epoch", f"e{number}")
        users.publish({ALICE: [(RISK, number)]}, epoch=f"e{number}")
    assert users.meta(ALICE)[b"fork"] == b"e3:3 e4:4 e5:5 e6:6 e7:7 e8:8 e9:9 e10:10"


def test_a_stream_whose_log_expired_goes_on_counting(users: Bucket) -> None:
    users.publish({ALICE: [(RISK, 1), (RISK, 2)]})
    users.redis.delete(KEYS.log(ALICE))
    users.publish({ALICE: [(RISK, 2), (RISK, 3)]})
    assert users.log(ALICE) == [("e1", 3, RISK, 3)]


def test_a_stream_whose_meta_was_removed_goes_on_after_its_log(users: Bucket) -> None:
    users.publish({ALICE: [(RISK, 1), (RISK, 2)], BOB: [(RISK, 3)]})
    users.redis.delete(KEYS.meta(ALICE))
    users.redis.xdel(KEYS.log(ALICE), "2-0")
    assert users.publish({ALICE: [(RISK, 4), (RISK, 5)], BOB: [(RISK, 6)]}, nexts={RISK: 7}) == [3]
    assert users.log(ALICE) == [("e1", 1, RISK, 1), ("e1", 3, RISK, 4), ("e1", 4, RISK, 5)]
    assert users.meta(ALICE)[b"seq"] == b"4"
    assert users.life()[b"n:risk-events/2"] == b"7"


def test_a_log_that_is_none_refuses_the_call_and_leaves_a_good_prefix(users: Bucket) -> None:
    users.redis.set(KEYS.log(BOB), "not a log")
    batch = {ALICE: [(RISK, 1)], BOB: [(RISK, 2)]}
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        users.publish(batch, nexts={RISK: 3})
    assert b"n:risk-events/2" not in users.life()
    assert users.meta(BOB) == {}
    users.redis.delete(KEYS.log(BOB))
    assert users.publish(batch, nexts={RISK: 3}) == [1]
    assert users.log(ALICE) == [("e1", 1, RISK, 1)]
    assert users.log(BOB) == [("e1", 1, RISK, 2)]


def test_a_meta_that_is_none_refuses_the_call_before_anything_is_written(users: Bucket) -> None:
    users.redis.set(KEYS.meta(BOB), "not meta")
    before = users.everything()
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        users.publish({ALICE: [(RISK, 1)], BOB: [(RISK, 2)]}, nexts={RISK: 3})
    assert users.everything() == before


def test_out_of_memory_refuses_the_call_before_anything_is_written(users: Bucket) -> None:
    users.publish({ALICE: [(RISK, 1)]}, nexts={RISK: 2})
    before = users.everything()
    users.redis.config_set("maxmemory", "1")
    with pytest.raises(redis.ResponseError, match=r"OOM|maxmemory"):
        users.publish({ALICE: [(RISK, 2)]}, nexts={RISK: 3}, beat=True)
    assert users.everything() == before
    users.redis.config_set("maxmemory", "0")
    assert users.publish({ALICE: [(RISK, 2)]}, nexts={RISK: 3}) == [1]


# start.lua


def test_the_first_relay_records_where_the_very_first_start_is(client: "redis.Redis[bytes]") -> None:
    script = Script("start.lua").source
    assert client.eval(script, 1, KEYS.start, RISK, 5, ORDERS, 0) == [RISK.encode(), b"5", ORDERS.encode(), b"0"]
    assert client.eval(script, 1, KEYS.start, RISK, 9, REGIME, 1) == [RISK.encode(), b"5", ORDERS.encode(), b"0"]
