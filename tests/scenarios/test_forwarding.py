"""What a load balancer, set up as it ships, passes on to a replica."""

import asyncio

import aiohttp
import pytest
from harness.load_balancers import ENVOY, HAPROXY, NGINX, LoadBalancer, start_load_balancer

from demo.process import Processes

CLAIMED = "203.0.113.7"


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers with the request's head."""
    head = await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(head) + head)
    writer.close()


@pytest.mark.parametrize("kind", [NGINX, HAPROXY, ENVOY], ids=lambda kind: kind.name)
async def test_a_client_cannot_say_where_it_comes_from_and_its_host_is_kept(kind: LoadBalancer) -> None:
    async with await asyncio.start_server(echo, "127.0.0.1", 0) as replica, Processes() as processes:
        balancer = await start_load_balancer(processes, kind, [replica.sockets[0].getsockname()[1]])
        claims = {"X-Forwarded-For": f"{CLAIMED}, {CLAIMED}", "Host": "notify.example.com:8443"}
        url = f"http://127.0.0.1:{balancer.port}/ws?user_id=ann"
        async with aiohttp.ClientSession() as session, session.get(url, headers=claims) as response:
            assert response.status == 200
            first, *lines = (await response.text()).strip().split("\r\n")
        assert first == "GET /ws?user_id=ann HTTP/1.1"
        headers = [(name.lower(), value) for name, value in (line.split(": ", 1) for line in lines)]
        assert [value for name, value in headers if name == "x-forwarded-for"] == ["127.0.0.1"]
        # With its port: a browser's Origin is compared with it.
        assert [value for name, value in headers if name == "host"] == ["notify.example.com:8443"]
