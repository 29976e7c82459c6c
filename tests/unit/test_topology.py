"""Which server holds a bucket: URLs, slots, and what servers answer."""

from dataclasses import replace
from typing import Any

import pytest

from shared.errors import RedisUnavailable, SettingsError
from shared.keys import Keys
from shared.link import RedisAddress
from shared.topology import (
    SLOTS,
    Cluster,
    OneServer,
    Placement,
    Sentinels,
    is_primary,
    parse_deployment,
    parse_master_address,
    parse_slots,
    slot_of,
)

A, B, C = (RedisAddress("10.0.0.1", port) for port in (7000, 7001, 7002))

# REDIS_URL


def test_a_plain_url_is_one_server() -> None:
    assert parse_deployment("redis://ann:pw@h:7000/2", cluster=False) == OneServer(
        RedisAddress("h", 7000, "ann", "pw", 2)
    )
    assert parse_deployment("unix:///run/r.sock", cluster=False) == OneServer(
        RedisAddress("localhost", 6379, path="/run/r.sock")
    )


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("redis://h", [("h", 6379)]),
        ("redis://h/0", [("h", 6379)]),
        ("redis://h:7000,i,[::1]:7002", [("h", 7000), ("i", 6379), ("::1", 7002)]),
    ],
)
def test_a_cluster_is_named_by_some_of_its_nodes(url: str, hosts: list[tuple[str, int]]) -> None:
    deployment = parse_deployment(url, cluster=True)
    assert isinstance(deployment, Cluster)
    assert [(node.host, node.port) for node in deployment.nodes] == hosts


def test_all_nodes_are_entered_alike() -> None:
    deployment = parse_deployment("rediss://ann:p%40@h:7000,i:7001", cluster=True)
    assert isinstance(deployment, Cluster)
    first, second = deployment.nodes
    assert second == replace(first, host="i", port=7001)
    assert (first.username, first.password) == ("ann", "p@")
    assert first.tls is not None


def test_sentinels_have_a_password_of_their_own() -> None:
    url = "redis+sentinel://ann:pw@h:7000,i,[::1]/my%20master/3?sentinel_password=s&sentinel_username=u"
    deployment = parse_deployment(url, cluster=False)
    assert isinstance(deployment, Sentinels)
    assert [(one.host, one.port, one.username, one.password, one.database) for one in deployment.sentinels] == [
        ("h", 7000, "u", "s", 0),
        ("i", 26379, "u", "s", 0),
        ("::1", 26379, "u", "s", 0),
    ]
    assert deployment.master == "my master"
    server = deployment.server
    assert (server.username, server.password, server.database, server.tls) == ("ann", "pw", 3, None)


def test_sentinels_without_a_password_are_not_given_the_servers() -> None:
    deployment = parse_deployment("rediss+sentinel://ann:pw@h/m", cluster=False)
    assert isinstance(deployment, Sentinels)
    (sentinel,) = deployment.sentinels
    assert (sentinel.username, sentinel.password) == (None, None)
    assert sentinel.tls is not None
    assert deployment.server.tls is not None


@pytest.mark.parametrize(
    ("url", "cluster", "said"),
    [
        ("redis://h:1,i:2", False, "REDIS_CLUSTER=true"),
        ("redis://h/2", True, "database 0"),
        ("redis://h:99999", True, "not a Redis URL"),
        ("redis://h:1,i:0", True, "port 0"),
        ("redis+sentinel://h:0/m", False, "port 0"),
        ("redis+sentinel://h/m/abc", False, "no database's number"),
        ("redis://h/abc", True, "no database's number"),
        ("unix:///run/r.sock", True, "takes redis:// or rediss://"),
        ("redis+sentinel://h/m", True, "does not go with Sentinels"),
        ("redis+sentinel://h", False, "no master"),
        ("redis+sentinel:///m", False, "no Sentinel"),
        ("http://h", False, "not a Redis URL"),
        ("redis://[h", False, "not a Redis URL"),
    ],
)
def test_what_does_not_go_together_is_said_without_the_url(url: str, cluster: bool, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as raised:
        parse_deployment(url, cluster)
    assert "://h" not in str(raised.value).replace("redis+sentinel://host", "")


@pytest.mark.parametrize(
    "url", ["redis://ann:s3cret@h", "redis+sentinel://ann:s3cret@h/m?sentinel_password=s3cret", "unix://a:s3cret@/s"]
)
def test_no_password_is_in_what_is_printed(url: str) -> None:
    deployment = parse_deployment(url, cluster=False)
    assert "s3cret" not in f"{deployment} {deployment!r}"


# Slots


@pytest.mark.parametrize(
    ("key", "slot"),
    [
        ("123456789", 0x31C3),  # the check value of CRC-16/XMODEM
        ("foo", 12182),
        ("{foo}", 12182),
        ("a{foo}b{c}", 12182),
        ("foo{}{bar}", 8363),
        ("{user1000}.following", 3443),
    ],
)
def test_a_keys_slot_is_that_of_its_hash_tag(key: str, slot: int) -> None:
    assert slot_of(key) == slot


def test_everything_of_a_bucket_is_in_one_slot() -> None:
    keys = Keys("notify", 64)
    for user in ("ann", "bob", "ü{x}"):
        stream = keys.user_stream(user)
        names = [keys.log(stream), keys.meta(stream), keys.live(stream), keys.life(stream.bucket)]
        assert len({slot_of(name) for name in (*names, keys.beat(stream.bucket))}) == 1


def node(address: RedisAddress, host: bytes | None = b"", name: bytes = b"id") -> list[Any]:
    return [address.host.encode() if host == b"" else host, address.port, name, []]


def test_slots_are_read_in_any_order() -> None:
    reply = [[10923, 16383, node(C), node(A)], [0, 5460, node(A)], [5461, 10922, node(B), node(C)]]
    placement = parse_slots(reply, replace(A, password="pw"))
    servers = {name: placement.server_of(name) for name in ("foo", "user1000", "bar")}
    assert servers == {
        "foo": replace(C, password="pw"),
        "user1000": replace(A, password="pw"),
        "bar": replace(A, password="pw"),
    }
    assert {address.port for address in placement.addresses} == {7000, 7001, 7002}


def test_a_bucket_moves_with_its_slot_alone() -> None:
    slot = slot_of("{g}")
    reply = [[0, slot - 1, node(A)], [slot, slot, node(B)], [slot + 1, SLOTS - 1, node(A)]]
    homes = parse_slots(reply, A).homes(Keys(user_buckets=4))
    assert homes == {B: frozenset({"g"}), A: frozenset({"u0", "u1", "u2", "u3"})}


@pytest.mark.parametrize("reply", [[], [[0, 100, node(A)]], [[16000, 16383, node(A)]]])
def test_a_slot_that_nobody_serves_is_said_with_its_key(reply: list[Any]) -> None:
    with pytest.raises(RedisUnavailable, match="slot 12182, that of foo"):
        parse_slots(reply, A).server_of("foo")


@pytest.mark.parametrize("told", [None, b"?"])
def test_a_node_whose_host_is_not_told_is_where_it_was_asked(told: bytes | None) -> None:
    assert parse_slots([[0, SLOTS - 1, node(B, told)]], A).server_of("x") == B


@pytest.mark.parametrize(
    "reply",
    [
        5,
        [5],
        [[]],
        [[0, 16383]],
        [[0, 16383, []]],
        [[0, 16383, ["host", 1]]],
        [[0, 16383, [b"host", None]]],
        [[b"x", 16383, [b"host", 1]]],
        [[0, 16383, [b"\xff", 1]]],
        {b"a": 1},
    ],
)
def test_what_says_nothing_of_slots_is_no_answer(reply: Any) -> None:
    with pytest.raises(ValueError, match="CLUSTER SLOTS"):
        parse_slots(reply, A)


def test_one_server_holds_everything() -> None:
    assert Placement.on(A).homes(Keys()) == {A: frozenset({"g", "u0"})}


# Sentinels


def test_the_primary_that_a_sentinel_names_is_entered_like_the_url_says() -> None:
    server = RedisAddress("x", 1, "ann", "pw", 3)
    assert parse_master_address([b"10.0.0.7", b"7003"], server) == RedisAddress("10.0.0.7", 7003, "ann", "pw", 3)


@pytest.mark.parametrize("reply", [5, [], [b"h"], [5, b"1"], [b"h", b"x"], [b"h", None], ["h", b"1"], [b"\xff", b"1"]])
def test_what_names_no_server_is_no_answer(reply: Any) -> None:
    with pytest.raises(ValueError, match="GET-MASTER-ADDR-BY-NAME"):
        parse_master_address(reply, A)


@pytest.mark.parametrize(
    ("role", "primary"),
    [
        ([b"master", 7, []], True),
        ([b"slave", b"h", 7000, b"connected", 7], False),
        ([b"sentinel", []], False),
        ([], False),
        ({}, False),
        ({b"role": b"master"}, False),
        (5, False),
    ],
)
def test_a_server_says_whether_it_is_a_primary(role: Any, primary: bool) -> None:
    assert is_primary(role) is primary
