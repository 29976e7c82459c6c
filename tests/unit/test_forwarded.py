"""Whose connection it is, behind proxies or not."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.addresses import Addresses
from gateway.admission.forwarded import client_address, counted_as, parse_address, parse_networks
from gateway.admission.origin import check_origin, parse_origin
from gateway.admission.request import Request

PROXIES = parse_networks(["10.0.0.0/8", "fd00::/8", "192.0.2.1"])


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        ("203.0.113.1", None, "203.0.113.1"),
        ("203.0.113.1", b"1.1.1.1", "203.0.113.1"),  # no proxy of ours says so
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", b"203.0.113.1", "203.0.113.1"),
        ("::ffff:10.0.0.1", b"203.0.113.1", "203.0.113.1"),
        ("10.0.0.1", b"1.1.1.1, 203.0.113.1", "203.0.113.1"),
        ("10.0.0.1", b"1.1.1.1, 203.0.113.1, 10.1.1.1,192.0.2.1", "203.0.113.1"),
        ("10.0.0.1", b"10.5.5.5, 10.1.1.1", "10.5.5.5"),
        ("10.0.0.1", b"203.0.113.1:4711", "203.0.113.1"),
        ("fd00::1", b"[2001:db8::1]:4711", "2001:db8::1"),
        ("10.0.0.1", b"203.0.113.1, unknown", "10.0.0.1"),
        ("10.0.0.1", b"", "10.0.0.1"),
        ("10.0.0.1", b",,", "10.0.0.1"),
        ("10.0.0.1", b"203.0.113.1, , 10.2.2.2", "10.2.2.2"),
        ("10.0.0.1", b"\xff\xfe", "10.0.0.1"),
        ("fe80::1%eth0", None, "fe80::1"),
    ],
)
def test_the_rightmost_hop_that_is_no_proxy_of_ours_counts(peer: str, forwarded_for: bytes | None, client: str) -> None:
    assert client_address(peer, forwarded_for, PROXIES) == ip_address(client)


@given(st.binary(max_size=200))
def test_what_a_client_writes_itself_changes_nothing(written: bytes) -> None:
    assert client_address("10.0.0.1", written + b", 203.0.113.1", PROXIES) == ip_address("203.0.113.1")


def test_a_peer_without_an_address_is_nobody() -> None:
    assert client_address("", b"1.1.1.1", PROXIES) is None
    assert parse_address("999.1.1.1") is None


def test_the_longest_chain_is_cut() -> None:
    assert client_address("10.0.0.1", b"203.0.113.9" + b", 10.0.0.2" * 5_000, PROXIES) == ip_address("10.0.0.2")


def test_ipv6_is_counted_by_its_network() -> None:
    one, same, other = (ip_address(f"2001:db8:0:{net}::{host}") for net, host in ((1, 1), (1, "f:f"), (2, 1)))
    assert counted_as(one) == counted_as(same) == "2001:db8:0:1::/64"
    assert counted_as(one) != counted_as(other)
    assert counted_as(ip_address("1.2.3.4")) == "1.2.3.4"


def test_wrong_networks_are_said() -> None:
    for text in ("10.0.0.0/33", "10.0.0.1/8", "proxy"):
        with pytest.raises(ValueError, match="takes addresses and networks"):
            parse_networks([text])


def test_addresses_are_counted_and_forgotten() -> None:
    addresses = Addresses(2)
    assert [addresses.take("a") for _ in range(3)] == [-1, 0, 1]
    assert addresses.take("b") == -1
    for _ in range(3):
        addresses.release("a")
    assert len(addresses) == 1
    assert addresses.take("a") == -1


# origins


def page(origin: str | None, host: str = "app.example.com") -> Request:
    headers = {b"host": host.encode()} | ({} if origin is None else {b"origin": origin.encode()})
    return Request(b"GET", b"/ws", b"", True, headers)


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        (None, "app.example.com", True),
        ("https://app.example.com", "app.example.com", True),
        ("http://app.example.com", "app.example.com", True),
        ("https://app.example.com", "app.example.com:443", True),
        ("https://App.Example.com:443", "APP.example.com", True),
        ("http://app.example.com:8000", "app.example.com:8000", True),
        ("http://[::1]:3000", "[::1]:3000", True),
        ("http://app.example.com:3000", "app.example.com:8000", False),
        ("https://app.example.com", "app.example.com:8443", False),
        ("https://example.com", "app.example.com", False),
        ("https://app.example.com.evil.net", "app.example.com", False),
        ("null", "null", False),
        ("", "", False),
        ("https://", "", False),
        ("https://app.example.com/", "app.example.com", False),
        ("https://a@app.example.com", "app.example.com", False),
    ],
)
def test_unless_others_are_named_pages_of_the_same_host_may_connect(
    origin: str | None, host: str, allowed: bool
) -> None:
    assert (check_origin(page(origin, host), None) is None) is allowed


def test_those_that_are_named_are_the_only_ones() -> None:
    allowed = frozenset({parse_origin("https://app.example.com:443"), parse_origin("http://localhost:3000")})
    assert check_origin(page("https://app.example.com", "api.example.com"), allowed) is None
    assert check_origin(page("http://LOCALHOST:3000", "api.example.com"), allowed) is None
    for origin in ("http://app.example.com", "https://api.example.com", "http://localhost", "null"):
        refusal = check_origin(page(origin, "api.example.com"), allowed)
        assert refusal is not None
        assert "ALLOWED_ORIGINS" in refusal.message


@pytest.mark.parametrize(
    "text", ["*", "app.example.com", "https://app.example.com/", "https://*.example.com", "HTTPS://a"]
)
def test_what_is_no_origin_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="is no origin"):
        parse_origin(text)
