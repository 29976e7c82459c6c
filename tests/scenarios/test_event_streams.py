"""Server-Sent Events through nginx as deploy/nginx.conf sets it up, and pages that embed a cursor."""

import aiohttp
import pytest
from harness.load_balancers import NGINX, Edit, start_load_balancer
from harness.stage import Stage
from harness.v1 import EventSourceClient
from harness.waiting import eventually

from demo.stack import http_url

BUFFERING: Edit = (r"proxy_buffering off;", "proxy_buffering on;")
"""nginx is not told to pass on at once what it gets, but by the answer's header."""


@pytest.mark.parametrize("edits", [[], [BUFFERING]], ids=["as deployed", "by the header alone"])
async def test_through_nginx_events_come_at_once_and_a_lost_replica_costs_none(stage: Stage, edits: list[Edit]) -> None:
    relay = stage.add_relay()
    replicas = [stage.add_gateway(f"gateway-{number}", env={"HEARTBEAT_SECONDS": "1"}) for number in (1, 2)]
    await stage.start(relay, *replicas)
    nginx = await start_load_balancer(stage.processes, NGINX, [replica.port for replica in replicas], *edits)
    browsers = [await stage.connect_events(user, nginx) for user in (*stage.users, *stage.users)]
    device = await stage.connect_v1(stage.users[0], nginx)
    for browser in browsers:
        assert browser.headers["content-type"].startswith("text/event-stream")
        assert browser.headers["cache-control"] == "no-store"
    # One event is little: nothing after it pushes it through a buffer.
    await stage.producer.publish("regime-events")
    await stage.everything_arrived(seconds=10)
    async with stage.load(stage.users) as load:
        await load.more(100)
        await replicas[0].kill()
        left = int(await stage.metric(replicas[1], "connections"))
        assert left < len(browsers) + 1
        await eventually(
            lambda: sum(client.is_connected for client in (*browsers, device)) == left, "some to lose their replica"
        )
        await load.more(50)
        for client in (*browsers, device):
            if not client.is_connected:
                await client.resume(nginx.port, nginx.name)
        await load.more(50)
    await stage.exact()
    assert not any(browser.controls for browser in browsers)
    await eventually(lambda: all(browser.stream.comments for browser in browsers), "heartbeats to come through")


async def test_a_browser_resumes_with_its_last_id_on_another_replica(stage: Stage) -> None:
    _, replicas = await stage.start_relay_and_replicas(2)
    browsers = [await stage.connect_events(user, replicas[0]) for user in stage.users]
    async with stage.load(stage.users) as load:
        for number in range(1, 7):
            await load.more(30)
            for browser in browsers:
                await browser.drop()
            await load.more(20)
            for browser in browsers:
                await browser.resume(replicas[number % 2].port, replicas[number % 2].name)
                assert browser.headers["x-accel-buffering"] == "no"
                assert browser.stream.last_event_id
    await stage.exact()
    assert not any(browser.controls for browser in browsers)


async def test_a_browser_that_got_no_event_yet_has_an_id_to_resume_with(stage: Stage) -> None:
    relay = stage.add_relay()
    replicas = [stage.add_gateway(f"gateway-{number}", env={"HEARTBEAT_SECONDS": "60"}) for number in (1, 2)]
    await stage.start(relay, *replicas)
    browser = await stage.connect_events(stage.users[0], replicas[0])
    assert not browser.stream.comments, "it need not wait for a heartbeat, which has one, too"
    await browser.drop()
    await stage.producer.publish_mixed(stage.users, 20)
    await browser.resume(replicas[1].port, replicas[1].name)
    await stage.exact()


async def test_a_page_that_embeds_its_position_misses_nothing_until_it_connects(stage: Stage) -> None:
    _, replicas = await stage.start_relay_and_replicas(2)
    ann = stage.users[0]
    newcomer = "new-" + ann  # whose stream has no message yet
    async with stage.load([ann], per_second=300) as load:
        for number in range(5):
            for user in (ann, newcomer):
                url = http_url(replicas[number % 2], f"/position?user_id={user}")
                async with aiohttp.ClientSession() as session, session.get(url) as response:
                    assert response.status == 200
                    assert response.headers["cache-control"] == "no-store"
                    cursor = (await response.json())["cursor"]
                known = await stage.producer.settled()
                await load.more(30)
                if user == newcomer and number == 2:
                    await stage.producer.publish("execution-events", newcomer)
                other = replicas[(number + 1) % 2]
                page = await stage.connect_v1(user, other, cursor=cursor)
                assert page.welcome["recovered"]
                assert "{}.{}.{}.{}".format(*page.welcome["global"].values(), *page.welcome["user"].values()) == cursor
                browser = await stage.connect_events(user, other, cursor=cursor)
                page.since = browser.since = known
        await load.more(30)
    await stage.exact()
    assert not any(client.controls for client in stage.clients if isinstance(client, EventSourceClient))
