"""Who is asked where a bucket is, and what becomes of the answers. What is asked is scripted."""

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from typing import Any

import pytest

from shared.errors import RedisUnavailable
from shared.link import Command, Link, RedisAddress
from shared.links import Links
from shared.servers import NODES_ASKED, Servers
from shared.settings import RedisSettings
from shared.topology import SLOTS, Placement

A, B = RedisAddress("10.0.0.1", 7000), RedisAddress("10.0.0.2", 7001)
PRIMARY, REPLICA = [b"master", 1, []], [b"slave", b"x", 1, b"connected", 1]


class ScriptedServers(Servers):
    """`answers` by address: a reply, or no answer at all where there is none."""

    def __init__(self, url: str, cluster: bool = False, buckets: int = 64) -> None:
        super().__init__(
            RedisSettings(_env_file=None, redis_url=url, redis_cluster=cluster, redis_user_buckets=buckets)
        )
        self.answers: dict[str, Any] = {}
        self.asked: list[str] = []

    async def _asked(self, address: RedisAddress, commands: Sequence[Command]) -> list[Any]:
        self.asked.append(str(address))
        await asyncio.sleep(0)
        if str(address) not in self.answers:
            raise RedisUnavailable(f"Redis at {address} is not reachable")
        return [self.answers[str(address)]]


def watched() -> ScriptedServers:
    return ScriptedServers("redis+sentinel://s1,s2,s3/m")


def names(address: RedisAddress) -> list[bytes]:
    return [address.host.encode(), str(address.port).encode()]


async def test_one_server_is_nobodys_secret() -> None:
    servers = ScriptedServers("redis://h:7000")
    servers.doubt()
    assert await servers.placement() == Placement.on(RedisAddress("h", 7000))
    assert servers.asked == []


async def test_the_first_sentinel_that_answers_will_do() -> None:
    servers = watched()
    servers.answers = {"s2:26379": names(A), str(A): PRIMARY}
    assert await servers.placement() == Placement.on(A)
    assert await servers.placement() == Placement.on(A)
    assert servers.asked.count("s2:26379") == 1


async def test_a_server_that_says_it_is_a_replica_is_not_believed_to_be_the_primary() -> None:
    servers = watched()
    servers.answers = {
        "s1:26379": names(A),
        "s2:26379": names(A),
        "s3:26379": names(B),
        str(A): REPLICA,
        str(B): PRIMARY,
    }
    for _ in range(10):  # whichever is asked first
        servers.doubt()
        assert await servers.placement() == Placement.on(B)


async def test_a_sentinel_that_does_not_know_the_master_is_no_end() -> None:
    servers = watched()
    servers.answers = {"s1:26379": None, "s2:26379": names(A), "s3:26379": [None, None], str(A): PRIMARY}
    for _ in range(10):
        servers.doubt()
        assert await servers.placement() == Placement.on(A)


async def test_without_a_primary_every_reason_is_said_once() -> None:
    servers = watched()
    servers.answers = {"s1:26379": names(A), "s2:26379": None, str(A): REPLICA}
    with pytest.raises(RedisUnavailable) as raised:
        await servers.placement()
    text = str(raised.value)
    assert "no primary found for m of sentinels s1:26379,s2:26379,s3:26379" in text
    assert "10.0.0.1:7000 is no primary" in text
    assert "s2:26379 knows no master 'm'" in text
    assert "s3:26379 is not reachable" in text


async def test_after_doubt_it_is_asked_again() -> None:
    servers = watched()
    servers.answers = {"s1:26379": names(A), str(A): PRIMARY}
    await servers.placement()
    servers.answers = {"s1:26379": names(B), str(B): PRIMARY}
    assert await servers.placement() == Placement.on(A)
    servers.doubt()
    assert await servers.placement() == Placement.on(B)


def all_on(address: RedisAddress) -> list[Any]:
    return [[0, SLOTS - 1, [*names(address)[:1], address.port, b"id"]]]


async def test_any_node_tells_where_the_slots_are() -> None:
    servers = ScriptedServers("redis://n1:1,n2:2,n3:3,n4:4", cluster=True)
    servers.answers = {"n1:1": [[]], "n2:2": [], "n3:3": all_on(A), "n4:4": [[0, 16383, ["what", 1]]]}
    for _ in range(10):
        servers.doubt()
        assert (await servers.placement()).addresses == {A}


async def test_nodes_that_the_url_does_not_name_are_asked_when_those_it_does_are_gone() -> None:
    servers = ScriptedServers("redis://n1:1", cluster=True)
    servers.answers = {"n1:1": all_on(A)}
    await servers.placement()
    servers.doubt()
    servers.answers = {str(A): all_on(B)}
    assert (await servers.placement()).addresses == {B}


async def test_of_many_nodes_some_are_asked_each_time_and_at_last_all() -> None:
    servers = ScriptedServers("redis://" + ",".join(f"n{number}:1" for number in range(20)), cluster=True)
    with pytest.raises(RedisUnavailable):
        await servers.placement()
    assert len(servers.asked) == NODES_ASKED
    servers.answers = {"n7:1": all_on(A)}
    for _ in range(1000):
        with contextlib.suppress(RedisUnavailable):
            assert (await servers.placement()).addresses == {A}
            break
    else:
        pytest.fail("n7 was never asked")


async def test_without_an_answer_every_node_is_named() -> None:
    servers = ScriptedServers("redis://n1:1,n2:2", cluster=True)
    servers.answers = {"n2:2": []}
    with pytest.raises(RedisUnavailable) as raised:
        await servers.placement()
    assert "n1:1 is not reachable" in str(raised.value)
    assert "n2:2 knows of no slots" in str(raised.value)


async def test_all_who_ask_at_the_same_time_get_one_answer() -> None:
    servers = watched()
    outcomes = await asyncio.gather(*(servers.placement() for _ in range(50)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {RedisUnavailable}
    assert len(servers.asked) == 3
    servers.answers = {f"s{number}:26379": names(A) for number in (1, 2, 3)} | {str(A): PRIMARY}
    assert await asyncio.gather(*(servers.placement() for _ in range(50))) == [Placement.on(A)] * 50
    assert len(servers.asked) == 5


@pytest.mark.parametrize(("buckets", "advised"), [(1, True), (2, False)])
def test_a_cluster_with_all_users_on_one_node_is_advised(
    buckets: int, advised: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    ScriptedServers("redis://h", cluster=True, buckets=buckets)
    assert ("REDIS_USER_BUCKETS" in capfd.readouterr().out) is advised


# Links


def linked(valkey_port: int, **changes: Any) -> tuple[ScriptedServers, Links, RedisAddress]:
    address = RedisAddress("127.0.0.1", valkey_port)
    servers = watched()
    servers.answers = {"s1:26379": names(address), str(address): PRIMARY}
    settings = RedisSettings(_env_file=None, redis_timeout_seconds=1, **changes)
    return servers, Links(settings, "unit", servers), address


async def test_a_link_is_kept(redis: Link, redis_address: RedisAddress) -> None:
    _, links, _ = linked(redis_address.port)
    first = await links.of("g")
    assert await links.of("u0") is first
    assert await links.of_key("notify:layout") is first
    links.close()
    assert first.is_lost


async def test_after_a_loss_it_is_asked_where_the_bucket_is_now(redis: Link, redis_address: RedisAddress) -> None:
    servers, links, address = linked(redis_address.port)
    first = await links.of("g")
    asked = servers.asked.count(str(address))
    first.close()
    second = await links.of("g")
    assert second is not first
    assert servers.asked.count(str(address)) == asked + 1
    links.close()


@pytest.mark.parametrize(
    "error", ["MOVED 1 h:1", "CLUSTERDOWN Hash slot not served", "READONLY You can't", "MASTERDOWN x"]
)
async def test_a_server_that_is_not_the_one_to_be_asked_is_left(
    redis: Link, redis_address: RedisAddress, error: str
) -> None:
    _, links, _ = linked(redis_address.port)
    first = await links.of("g")
    with pytest.raises(Exception, match=error.split()[0]):
        await first.call("EVAL", f"return redis.error_reply([[{error}]])", 0, timeout_seconds=5)
    assert not first.is_lost
    assert first.is_displaced
    assert await links.of("g") is not first
    assert first.is_lost
    links.close()


async def test_another_refusal_does_not_cost_the_link(redis: Link, redis_address: RedisAddress) -> None:
    _, links, _ = linked(redis_address.port)
    first = await links.of("g")
    with pytest.raises(Exception, match="WRONGTYPE"):
        await first.call("EVAL", "return redis.error_reply('WRONGTYPE x')", 0, timeout_seconds=5)
    assert await links.of("g") is first
    links.close()


async def test_a_crowd_that_needs_a_link_makes_one(redis: Link, redis_address: RedisAddress) -> None:
    _, links, _ = linked(redis_address.port)
    assert len(set(await asyncio.gather(*(links.of("g") for _ in range(50))))) == 1
    links.close()


async def test_a_crowd_before_a_server_that_hangs_waits_once() -> None:
    with socket.socket() as hanging:
        hanging.bind(("127.0.0.1", 0))
        hanging.listen()  # and nobody accepts
        _, links, _ = linked(hanging.getsockname()[1])
        async with asyncio.timeout(10):
            outcomes = await asyncio.gather(*(links.of("g") for _ in range(50)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {RedisUnavailable}
