"""What replicas tell Redis of their connections, and which of a user's are closed for it. Real servers."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis
from harness.waiting import eventually
from scripted import ScriptedMember, SeatingHub

import gateway.presence
from demo.process import Process
from demo.valkey import redis_url
from gateway.close_codes import CloseCode
from gateway.presence import KEEP_SECONDS, USERS_AT_ONCE, Presence
from gateway.share import NAMED, Share
from gateway.stream import Meta
from shared.errors import RedisRefused, RedisUnavailable
from shared.keys import Keys
from shared.link import Link, RedisAddress
from shared.links import Links
from shared.settings import RedisSettings
from shared.statuses import process_name

KEYS = Keys("unit", 2)
ANN = next(f"user-{n}" for n in range(99) if KEYS.user_stream(f"user-{n}").bucket == "u0")
BOB = next(f"user-{n}" for n in range(99) if KEYS.user_stream(f"user-{n}").bucket == "u1")


class Guest(ScriptedMember):
    """A connection whose handshake is answered as soon as its streams are subscribed."""

    def subscribed(self) -> None:
        super().subscribed()
        assert self.hub is not None
        self.hub.opened(self)

    def close(self, code: CloseCode, reason: str | None = None) -> None:
        super().close(code, reason)
        assert self.hub is not None
        self.hub.leave(self)


class House:
    """A replica's hub, whose streams are subscribed at once, and its presence; notices are heard."""

    def __init__(self, settings: RedisSettings, cap: int, links: Any = None) -> None:
        self.hub = SeatingHub(KEYS)
        self.links = links or Links(settings, "unit")
        self.presence = Presence(settings, self.hub, self.links, process_name(), cap)
        self._telling = 0
        self._tell_changed = self.presence._tell_changed
        self.presence._tell_changed = self._counted  # type: ignore[method-assign]
        self.tasks = [asyncio.create_task(self.presence.run())]
        self._ear: Link | None = None

    async def listen(self, address: RedisAddress) -> None:
        buckets = {KEYS.notices(bucket).encode(): bucket for bucket in ("u0", "u1")}
        self._ear = await Link.connect(
            address,
            name="ear",
            timeout_seconds=5,
            on_push=lambda push: self.presence.heard(buckets[push[1]], push[2]),
        )
        for channel in buckets:
            await self._ear.subscribe([channel.decode()], timeout_seconds=5)

    def connect(self, user: str = ANN, count: int = 1) -> list[Guest]:
        guests = [Guest(None, user) for _ in range(count)]
        for guest in guests:
            self.hub.join(guest, user)
            for audience in self.hub.take_wanted(100):
                self.hub.joined(audience, Meta(), {})
        return guests

    def has(self, user: str = ANN) -> tuple[int, ...]:
        """When this user's connections here were opened."""
        audience = self.hub.find(KEYS.live(KEYS.user_stream(user)))
        return () if audience is None else tuple(one.opened_us for one in audience.present())

    async def is_told(self) -> None:
        """Wait until nothing is left to be told, or on its way."""
        buckets = self.presence._buckets

        def is_quiet() -> bool:
            # While changes are gathered, the bucket is awake; then they are taken out of it and told.
            is_idle = all(not bucket.changed and not bucket.wake.is_set() for bucket in buckets.values())
            return is_idle and not self._telling

        await eventually(is_quiet, "all to be told")

    async def _counted(self, bucket: Any) -> None:
        self._telling += 1
        try:
            await self._tell_changed(bucket)
        finally:
            self._telling -= 1

    async def kill(self) -> None:
        """It does nothing any more."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        if self._ear is not None:
            self._ear.close()

    async def end(self) -> None:
        await self.kill()
        if isinstance(self.links, Links):
            self.links.close()
        await asyncio.sleep(0)  # for the sockets to be gone


class Street:
    """Replicas on one Redis."""

    def __init__(self, address: RedisAddress, settings: RedisSettings, redis: Link) -> None:
        self.address, self.settings, self.redis = address, settings, redis
        self.houses: list[House] = []
        """Those that live."""
        self.built: list[House] = []

    async def house(self, cap: int = 3) -> House:
        house = House(self.settings, cap)
        self.houses.append(house)
        self.built.append(house)
        await house.listen(self.address)
        return house

    async def call(self, *command: bytes | str | int) -> Any:
        return await self.redis.call(*command, timeout_seconds=5)

    async def settle(self, total: int, user: str = ANN) -> None:
        """Wait until so many are left of a user, and Redis knows them."""

        async def is_so() -> bool:
            here = {house.presence.replica: house.has(user) for house in self.houses if house.has(user)}
            known = {name: share.opened_us for name, share in (await self.houses[0].presence.read(user)).items()}
            return sum(map(len, here.values())) == total and here == known

        await eventually(is_so, lambda: f"{total} left: {[house.has(user) for house in self.houses]}")


@pytest.fixture
async def street(
    redis: Link, redis_address: RedisAddress, valkey: Process, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Street]:
    monkeypatch.setattr(gateway.presence, "GATHER_SECONDS", 0.01)
    # What is told again in time would hide what was not told at once.
    monkeypatch.setattr(gateway.presence, "RENEW_SECONDS", 3_600)
    settings = RedisSettings(
        _env_file=None, redis_url=redis_url(valkey), redis_prefix="unit", redis_user_buckets=2, redis_timeout_seconds=2
    )
    street = Street(redis_address, settings, redis)
    yield street
    for house in street.built:
        await house.end()


# What is told


async def test_who_is_where_is_told_and_read_on_any_replica(street: Street) -> None:
    one, other = await street.house(), await street.house()
    one.connect(ANN, 2)
    other.connect(ANN)
    other.connect(BOB)
    await one.is_told()
    await other.is_told()
    read = await one.presence.read(ANN)
    assert read == {one.presence.replica: Share(2, one.has()), other.presence.replica: Share(1, other.has())}
    assert await one.presence.read(BOB) == {other.presence.replica: Share(1, other.has(BOB))}
    assert await one.presence.read("nobody") == {}
    assert other.presence.user_count == 2
    ttl = await street.call("TTL", KEYS.presence(KEYS.user_stream(ANN)))
    assert KEEP_SECONDS - 10 < ttl <= KEEP_SECONDS


async def test_who_has_gone_is_told_too(street: Street) -> None:
    house = await street.house()
    first, second = house.connect(ANN, 2)
    await house.is_told()
    house.hub.leave(first)
    await house.is_told()
    assert await house.presence.read(ANN) == {house.presence.replica: Share(1, (second.opened_us,))}
    house.hub.leave(second)
    await house.is_told()
    assert await street.call("EXISTS", KEYS.presence(KEYS.user_stream(ANN))) == 0
    assert house.presence.user_count == 0


async def test_who_came_and_went_at_once_is_not_told(street: Street) -> None:
    house = await street.house()
    (stays,) = house.connect(ANN)
    for _ in range(1_000):
        (guest,) = house.connect(BOB)
        house.hub.leave(guest)
    await house.is_told()
    assert house.presence.writes == Counter(written=1)
    assert await house.presence.read(ANN) == {house.presence.replica: Share(1, (stays.opened_us,))}


async def test_who_has_gone_before_its_turn_is_not_told(street: Street) -> None:
    house = await street.house()
    (guest,) = house.connect()
    audience, bucket = guest.audience, house.presence._buckets["u0"]
    assert audience is not None
    house.hub.leave(guest)
    await house.presence._tell(bucket, [(audience.channel, audience)])
    assert house.presence.writes == Counter()
    assert bucket.told == {}


async def test_many_are_told_some_at_a_time(street: Street) -> None:
    house = await street.house()
    users = [f"guest-{number}" for number in range(3 * USERS_AT_ONCE + 7)]
    for user in users:
        house.connect(user)
    await house.is_told()
    assert house.presence.writes == Counter(written=len(users))
    assert len(await street.call("KEYS", "unit:*:presence:*")) == len(users)


async def test_connections_of_one_moment_are_told_apart(street: Street, monkeypatch: pytest.MonkeyPatch) -> None:
    house = await street.house(0)
    monkeypatch.setattr("gateway.hub.time.time_ns", lambda: 5_000_000)
    house.connect(ANN, 2)
    monkeypatch.setattr("gateway.hub.time.time_ns", lambda: 1_000_000)  # the clock was set back
    house.connect(ANN)
    assert house.has() == (5_000, 5_001, 5_002)


async def test_without_a_cap_all_are_counted_and_the_newest_named(street: Street) -> None:
    house = await street.house(0)
    house.connect(ANN, NAMED + 50)
    await house.is_told()
    (share,) = (await house.presence.read(ANN)).values()
    assert share == Share(NAMED + 50, house.has()[50:])


# The cap


async def test_here_the_oldest_goes_at_once(street: Street) -> None:
    house = await street.house()
    guests = house.connect(ANN, 5)
    assert [guest.closed for guest in guests] == [CloseCode.REPLACED] * 2 + [None] * 3
    assert not house.connect(BOB)[0].closed


async def test_one_too_many_replaces_the_oldest_wherever_it_is(street: Street) -> None:
    one, other = await street.house(), await street.house()
    (oldest,) = one.connect()
    await one.is_told()
    guests = other.connect(ANN, 2)
    await other.is_told()
    guests += other.connect()
    await street.settle(3)
    assert oldest.closed is CloseCode.REPLACED
    guests += one.connect()
    await street.settle(3)
    assert [guest.closed for guest in guests] == [CloseCode.REPLACED, None, None, None]


async def test_many_at_once_leave_exactly_the_newest(street: Street) -> None:
    houses = [await street.house() for _ in range(3)]
    guests = [houses[number % 3].connect()[0] for number in range(30)]
    await street.settle(3)
    assert [guest.closed for guest in sorted(guests, key=lambda guest: guest.opened_us)[-3:]] == [None] * 3


async def test_a_dead_replicas_share_counts_no_more_and_is_taken_out(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.presence, "LEASE_SECONDS", 1)
    monkeypatch.setattr(gateway.presence, "RENEW_SECONDS", 0.2)
    one, other = await street.house(), await street.house()
    (living,) = other.connect()
    await other.is_told()
    one.connect(ANN, 2)  # newer: while they count, the living one is the oldest
    await one.is_told()
    await one.kill()
    street.houses = [other]
    await street.settle(1)
    guests = other.connect(ANN, 2)
    await street.settle(3)
    assert living.closed is None
    assert [guest.closed for guest in guests] == [None, None]
    assert len(await street.call("HGETALL", KEYS.presence(KEYS.user_stream(ANN)))) == 1


async def test_a_replica_that_was_taken_for_dead_tells_everything_again(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was frozen, say. Its connections are the oldest now."""
    monkeypatch.setattr(gateway.presence, "LEASE_SECONDS", 1)
    monkeypatch.setattr(gateway.presence, "RENEW_SECONDS", 0.2)
    one, other = await street.house(), await street.house()
    old = one.connect(ANN, 3)
    one.connect("another")
    await one.is_told()
    await one.kill()
    street.houses = [other]
    await street.settle(0)
    other.connect(ANN, 2)
    await street.settle(2)
    one.tasks.append(asyncio.create_task(one.presence.run()))
    for bucket in one.presence._buckets.values():
        one.presence._new.put_nowait(bucket)
    await one.listen(street.address)
    street.houses = [one, other]
    await street.settle(3)
    assert [guest.closed for guest in old] == [CloseCode.REPLACED, CloseCode.REPLACED, None]


async def test_what_redis_lost_is_told_again(street: Street, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.presence, "RENEW_SECONDS", 0.2)
    house = await street.house()
    for number in range(1_000):
        house.connect(f"guest-{number}")
    house.connect(ANN, 3)
    await house.is_told()
    await street.call("FLUSHALL")
    await street.settle(3)
    await eventually(lambda: _told_users(street, 1_001), "all to be told again")


async def _told_users(street: Street, count: int) -> bool:
    return len(await street.call("KEYS", "unit:*:presence:*")) == count


async def test_all_are_told_again_in_time_a_few_with_each_renewal(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.presence, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(gateway.presence, "AGAIN_SECONDS", 0.5)
    house = await street.house()
    users = [f"guest-{number}" for number in range(100)]
    for user in users:
        house.connect(user)
    await house.is_told()
    for user in users:
        await street.call("DEL", KEYS.presence(KEYS.user_stream(user)))
    before = house.presence.writes["written"]
    await eventually(lambda: _told_users(street, len(users)), "all to be told again")
    assert house.presence.writes["written"] - before < 3 * len(users)


async def test_a_missed_notice_is_made_up_for_when_the_bucket_is_subscribed_again(street: Street) -> None:
    one, other = await street.house(), await street.house()
    (oldest,) = one.connect()
    await one.is_told()
    assert one._ear is not None
    one._ear.close()
    other.connect(ANN, 3)
    await other.is_told()
    assert oldest.closed is None
    one.presence.tell_again(["g", "u0", "u1"])
    await street.settle(3)
    assert oldest.closed is CloseCode.REPLACED


@pytest.mark.parametrize("notice", [b"", b"tell", b"tell me", b"tell a b c", b"\xff \xff \xff", b"tell other user"])
async def test_what_is_no_notice_for_this_replica_does_nothing(street: Street, notice: bytes) -> None:
    house = await street.house()
    house.connect()
    await house.is_told()
    house.presence.heard("u0", notice)
    house.presence.heard("u0", b"tell %s nobody" % house.presence.replica.encode())
    await house.is_told()
    assert house.presence.writes == Counter(written=1)


async def test_a_drained_replica_takes_its_share_out(street: Street) -> None:
    one, other = await street.house(), await street.house()
    one.connect()
    one.connect(BOB)
    await one.is_told()
    await one.kill()
    await one.presence.leave()
    assert await other.presence.read(ANN) == await other.presence.read(BOB) == {}
    assert await street.call("EXISTS", KEYS.replicas("u0"), KEYS.replicas("u1")) == 0


# What goes wrong


async def test_a_key_of_another_type_holds_up_nobody_else(street: Street) -> None:
    house = await street.house()
    key = KEYS.presence(KEYS.user_stream(ANN))
    await street.call("SET", key, "x")
    others = [user for n in range(20) if KEYS.user_stream(user := f"guest-{n}").bucket == "u0"]
    for user in (ANN, *others):
        house.connect(user)
    await house.is_told()
    assert house.presence.writes == Counter(written=len(others), failed=1)
    assert all([await house.presence.read(user) for user in others])


async def test_a_share_that_somebody_wrecked_counts_as_none(street: Street) -> None:
    house = await street.house()
    await street.call("HSET", KEYS.presence(KEYS.user_stream(ANN)), "wreck", "9 nine times")
    await street.call("ZADD", KEYS.replicas("u0"), 10**13, "wreck")
    guests = house.connect(ANN, 2)
    await house.is_told()
    assert [guest.closed for guest in guests] == [None, None]
    assert await house.presence.read(ANN) == {house.presence.replica: Share(2, house.has())}


class AwayLinks:
    """Links to a Redis of which one bucket is away until it comes back."""

    def __init__(self, real: Links, error: Exception) -> None:
        self.real, self.error = real, error
        self.away = {"u0"}
        self.asked = 0

    async def of(self, bucket: str) -> Link:
        self.asked += 1
        if bucket in self.away:
            raise self.error
        return await self.real.of(bucket)


@pytest.mark.parametrize("error", [RedisUnavailable("away"), RedisRefused("OOM command not allowed")])
async def test_a_bucket_that_is_away_holds_up_no_other_and_is_told_later(street: Street, error: Exception) -> None:
    links = AwayLinks(Links(street.settings, "unit"), error)
    house = House(street.settings, 3, links)
    street.built.append(house)
    try:
        first, second = house.connect(ANN, 2)
        house.connect(BOB)
        await eventually(lambda: house.presence.writes["written"] == 1, "what can be told")
        await eventually(lambda: links.asked > 3, "several attempts")
        house.hub.leave(first)
        links.away.clear()
        await house.is_told()
        read = await house.presence.read(ANN)
        assert read == {house.presence.replica: Share(1, (second.opened_us,))}
    finally:
        links.real.close()


class RefusingLinks:
    """Links to a server that takes nothing; `meanwhile` happens while it is asked."""

    def __init__(self) -> None:
        self.meanwhile: Any = lambda: None

    async def of(self, bucket: str) -> "RefusingLinks":
        return self

    async def call(self, *command: Any, timeout_seconds: float) -> Any:
        self.meanwhile()
        raise RedisRefused("OOM command not allowed")


async def test_who_came_and_went_while_redis_takes_nothing_is_not_kept(street: Street) -> None:
    links = RefusingLinks()
    house = House(street.settings, 3, links)
    street.built.append(house)
    guests: list[Guest] = []

    def crowd() -> None:
        number = len(guests)
        for more in range(2 * USERS_AT_ONCE):
            guests.extend(house.connect(f"guest-{number + more}"))

    (stays,) = house.connect(ANN)
    crowd()
    links.meanwhile = crowd
    await eventually(lambda: len(guests) > 16 * USERS_AT_ONCE, "several attempts")
    for guest in guests:
        house.hub.leave(guest)
    for bucket in house.presence._buckets.values():
        assert len(bucket.told) <= USERS_AT_ONCE
        assert len(bucket.changed) <= USERS_AT_ONCE
    assert stays.audience is not None
    assert stays.audience.channel in house.presence._buckets["u0"].told


# presence.lua, on each kind of server


@pytest.fixture
def client(each_server: int) -> Iterator[Any]:
    with contextlib.closing(redis.Redis(port=each_server)) as client:
        client.flushall()
        yield client


REPLICAS = KEYS.replicas("u0")
USERS = [KEYS.presence(KEYS.user_stream(ANN)), "unit:{u0}:presence:other"]


def tell(client: Any, replica: str, *shares: str, cap: int = 3, lease_ms: int = 25_000) -> Any:
    script = gateway.presence._SCRIPT
    users = USERS[: len(shares)]
    return client.eval(script, 1 + len(users), REPLICAS, *users, replica, lease_ms, 60, cap, *shares)


def test_the_script_replaces_a_share_and_knows_whether_the_lease_went_on(client: Any) -> None:
    assert tell(client, "a", "1 5", "1 6") == [1, [], []]
    assert tell(client, "a", "2 5 7", "") == [0, [], []]
    assert client.hgetall(USERS[0]) == {b"a": b"2 5 7"}
    assert client.exists(USERS[1]) == 0
    assert 0 < client.ttl(USERS[0]) <= 60
    until_ms = client.zscore(REPLICAS, "a")
    assert abs(until_ms - 1000 * time.time() - 25_000) < 5_000
    assert 20_000 < client.pttl(REPLICAS) <= 25_000


def test_the_script_gives_all_shares_of_a_user_with_too_many(client: Any) -> None:
    assert tell(client, "a", "2 1 2", "1 3") == [1, [], []]
    assert tell(client, "b", "1 4") == [1, [], []]
    assert tell(client, "c", "1 5", "1 6") == [1, [[0, b"c", b"1 5", b"a", b"2 1 2", b"b", b"1 4"]], []]
    assert tell(client, "c", "1 5", "1 6", cap=0) == [0, [], []]
    # Who has none of them has nothing to close.
    assert tell(client, "c", "") == [0, [], []]


def test_the_script_takes_out_the_shares_of_the_dead(client: Any) -> None:
    tell(client, "dead", "3 1 2 3", lease_ms=1)
    time.sleep(0.05)
    assert tell(client, "a", "3 4 5 6") == [1, [], []]
    assert client.hgetall(USERS[0]) == {b"a": b"3 4 5 6"}
    assert client.zrange(REPLICAS, 0, -1) == [b"a"]
    tell(client, "dead", "1 1", lease_ms=1)
    time.sleep(0.05)
    assert tell(client, "dead", "1 1")[0] == 1


def test_the_script_leaves_alone_what_is_no_presence(client: Any) -> None:
    client.set(USERS[0], "x")
    began, above, ((place, error),) = tell(client, "a", "1 5", "1 6")
    assert (began, above, place) == (1, [], 0)
    assert b"WRONGTYPE" in error
    assert client.hgetall(USERS[1]) == {b"a": b"1 6"}
