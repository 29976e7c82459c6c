"""A link over TLS: to a real server, behind something that speaks TLS for it."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from harness.certificates import Authority
from loops import LOOPS, run_on

from demo.process import Process
from demo.proxy import Proxy
from shared.errors import NotifyError, RedisRefused, RedisUnavailable, SettingsError
from shared.link import Link, RedisAddress
from shared.topology import Cluster, Sentinels, parse_deployment

WAIT_SECONDS = 10


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Runs a test on the loop of the relay, and on that of the gateway."""

    def run(test: Coroutine[Any, Any, None]) -> None:
        run_on(LOOPS[request.param], asyncio.wait_for(test, WAIT_SECONDS))

    return run


async def ping(url: str, connect_seconds: float = WAIT_SECONDS) -> None:
    address = await asyncio.to_thread(RedisAddress.from_url, url)  # reads files, as at a process's start
    link = await Link.connect(address, name="test", timeout_seconds=connect_seconds)
    try:
        assert await link.call("PING", timeout_seconds=WAIT_SECONDS) == b"PONG"
    finally:
        link.close()


async def why_not(url: str, error: type[NotifyError] = RedisUnavailable, connect_seconds: float = WAIT_SECONDS) -> str:
    with pytest.raises(error) as raised:
        await ping(url, connect_seconds)
    assert "s3cret" not in str(raised.value)
    return str(raised.value)


Run = Callable[[Coroutine[Any, Any, None]], None]


def test_it_reaches_a_server_whose_authority_it_knows(valkey: Process, authority: Authority, run: Run) -> None:
    async def test() -> None:
        async with Proxy(valkey.port, tls=authority.server_context()) as server:
            for host in ("127.0.0.1", "localhost"):
                await ping(f"rediss://{host}:{server.port}?ssl_ca_certs={authority.ca_file}")

    run(test())


def test_a_server_of_an_unknown_authority_is_refused(valkey: Process, authority: Authority, run: Run) -> None:
    async def test() -> None:
        other = Authority(authority.ca_file.parent, "other")
        async with Proxy(valkey.port, tls=authority.server_context()) as server:
            for query in (f"?ssl_ca_certs={other.ca_file}", ""):
                text = await why_not(f"rediss://ann:s3cret@127.0.0.1:{server.port}{query}")
                assert f"Redis at 127.0.0.1:{server.port} is not reachable: its certificate is refused" in text
                assert "ssl_ca_certs" in text

    run(test())


def test_a_server_of_another_name_is_refused(valkey: Process, authority: Authority, run: Run) -> None:
    async def test() -> None:
        async with Proxy(valkey.port, tls=authority.server_context("redis.example")) as server:
            url = f"rediss://127.0.0.1:{server.port}?ssl_ca_certs={authority.ca_file}"
            assert "127.0.0.1" in (await why_not(url)).partition("refused:")[2]
            await ping(f"{url}&ssl_check_hostname=false")
            await ping(f"rediss://127.0.0.1:{server.port}?ssl_cert_reqs=none")

    run(test())


def test_it_shows_a_certificate_of_its_own(valkey: Process, authority: Authority, run: Run) -> None:
    async def test() -> None:
        tls = authority.server_context(wants_client_certificate=True)
        ours = authority.issue("client", "relay")
        async with Proxy(valkey.port, tls=tls) as server:
            url = f"rediss://127.0.0.1:{server.port}?ssl_ca_certs={authority.ca_file}"
            await ping(f"{url}&ssl_certfile={ours.cert_file}&ssl_keyfile={ours.key_file}")
            await ping(f"{url}&ssl_certfile={ours.chain_file}")
            # In TLS 1.3 a client learns of it after its own handshake.
            assert f"127.0.0.1:{server.port}" in await why_not(url)

    run(test())


def test_a_server_that_speaks_no_tls_is_said(valkey: Process, authority: Authority, run: Run) -> None:
    async def test() -> None:
        url = f"rediss://127.0.0.1:{valkey.port}?ssl_ca_certs={authority.ca_file}"
        assert "see that it speaks TLS on this port" in await why_not(url, connect_seconds=0.5)

    run(test())


def test_plain_to_a_server_that_speaks_tls_ends(valkey: Process, authority: Authority, run: Run) -> None:
    async def test() -> None:
        async with Proxy(valkey.port, tls=authority.server_context()) as server:
            await why_not(f"redis://127.0.0.1:{server.port}")

    run(test())


def test_a_wrong_password_is_said_and_not_shown(valkey: Process, authority: Authority, run: Run) -> None:
    async def test() -> None:
        async with Proxy(valkey.port, tls=authority.server_context()) as server:
            url = f"rediss://ann:s3cret@127.0.0.1:{server.port}?ssl_ca_certs={authority.ca_file}"
            text = await why_not(url, RedisRefused)
            assert text.startswith(f"Redis at 127.0.0.1:{server.port} does not let in 'ann': WRONGPASS")
            assert "REDIS_URL has this server's user and password" in text

    run(test())


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("ssl_ca_certs=/no/such/file", "ssl_ca_certs: /no/such/file cannot be read"),
        ("ssl_certfile=/no/such/file", "ssl_certfile: /no/such/file cannot be read"),
        ("ssl_keyfile=/no/such/file", "ssl_keyfile without ssl_certfile"),
        ("ssl_ca_cert=/no/such/file", "ssl_ca_cert; takes ssl_ca_certs"),
        ("ssl_min_version=770", "ssl_min_version; takes"),
        ("ssl_cert_reqs=optional", "ssl_cert_reqs takes required or none"),
    ],
)
def test_a_wrong_option_is_named(query: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why) as raised:
        RedisAddress.from_url(f"rediss://ann:s3cret@h?{query}")
    assert "s3cret" not in str(raised.value)


def test_options_of_tls_without_tls_are_refused() -> None:
    with pytest.raises(SettingsError, match="ssl_ca_certs, which goes with rediss:// only"):
        RedisAddress.from_url("redis://h?ssl_ca_certs=/ca.pem")


def test_a_cluster_and_sentinels_have_the_same_options(authority: Authority, tmp_path: Path) -> None:
    ours = authority.issue("member", "gateway")
    query = f"ssl_ca_certs={authority.ca_file}&ssl_certfile={ours.cert_file}&ssl_keyfile={ours.key_file}"
    cluster = parse_deployment(f"rediss://ann:pw@a:1,b:2?{query}", cluster=True)
    watched = parse_deployment(f"rediss+sentinel://ann:pw@a:1,b:2/m?sentinel_password=x&{query}", cluster=False)
    assert isinstance(cluster, Cluster)
    assert isinstance(watched, Sentinels)
    for address in (*cluster.nodes, *watched.sentinels, watched.server):
        assert address.tls is not None
        assert len(address.tls.get_ca_certs()) == 1
    with pytest.raises(SettingsError, match="ssl_ca_certs: /no/such/file cannot be read"):
        parse_deployment("rediss+sentinel://a/m?ssl_ca_certs=/no/such/file", cluster=False)
