"""The console in a browser: what it shows of a real deployment, what it says is wrong, acts that ask first, the demo.

CONSOLE_SCREENSHOTS=<folder> keeps the pictures.
"""

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from harness.browser import Page
from harness.look import Look
from harness.stage import Stage
from harness.waiting import eventually

from demo.process import ROOT, Process
from demo.stack import http_url

pytestmark = pytest.mark.skipif(Page.missing() is not None and not os.environ.get("CI"), reason=str(Page.missing()))

OPEN = {"ADMIN_OPEN": "true"}
CLIENTS = 40
TOKEN = "an operator's token of forty characters".replace(" ", "-").replace("'", "-")
WIDER_THAN_THE_SCREEN = "document.documentElement.scrollWidth > window.innerWidth"


def console(gateway: Process) -> str:
    return http_url(gateway, "/console/", "admin")


async def picture(look: Look, name: str, folder: Path) -> None:
    kept = os.environ.get("CONSOLE_SCREENSHOTS")
    path = Path(kept) / f"{name}.png" if kept else folder / f"{name}.png"
    await look.ask("screenshot", path=str(path))
    assert path.stat().st_size > 10_000


async def test_it_shows_the_way_of_an_event_and_names_what_is_wrong(stage: Stage, tmp_path: Path) -> None:
    relay = stage.add_relay()
    gateways = [stage.add_gateway(f"gateway-{number}", env=OPEN) for number in (1, 2)]
    await stage.start(relay, *gateways)
    await stage.crowd(stage.users, gateways)
    async with Look(console(gateways[0])) as look:
        await eventually(lambda: look.has("#summary", "all is well"), "all to be well", seconds=60)
        async with stage.load(stage.users, per_second=50) as load:
            await load.more(100)
            for topic in ("regime-events", "alert-events", "risk-events", "execution-events"):
                assert await look.has("#topics", topic)
            assert await look.has("#relays", "ready")
            assert await look.has("#redis", "answers")
            shown = await look.text("#replicas")
            assert all(f":{gateway.port}" in shown for gateway in gateways), shown
            for type_ in ("regime_change", "market_alert", "risk_alert", "order_executed"):
                assert await look.has("#types", type_)
            await eventually(lambda: has_latencies(look), "what was delivered to be shown")

        # What somebody reads stays where it is, though its figures change.
        await look.ask("evaluate", script="(window.read = document.querySelector('#types svg').parentNode) && null")
        await eventually(
            lambda: look.ask("evaluate", script="window.read.innerText !== (window.before ??= window.read.innerText)"),
            "figures to change", seconds=60,
        )  # fmt: skip
        assert await look.ask("evaluate", script="window.read.isConnected")

        for width, scheme in ((1280, "light"), (1280, "dark"), (360, "light")):
            await look.ask("resize", width=width, height=800)
            await look.ask("scheme", scheme=scheme)
            assert not await look.ask("evaluate", script=WIDER_THAN_THE_SCREEN), f"{width} pixels"
            await picture(look, f"console-{width}-{scheme}", tmp_path)
        assert await look.ask("complaints") == []

        await relay.kill()
        await eventually(lambda: look.has("#verdicts", "No relay runs"), "the relay to be missed", seconds=60)
        assert await look.has("#summary", "one thing to look at")
        await relay.start().wait_until_ready()
        await eventually(lambda: no_longer(look, "No relay runs"), "the relay to be back", seconds=60)
        await stage.redis.kill()
        await eventually(lambda: look.has("#verdicts", "Redis does not answer"), "Redis to be missed", seconds=60)
        await gateways[0].kill()
        await eventually(lambda: look.has("#verdicts", "says nothing any more"), "the replica to be missed", seconds=60)


async def has_latencies(look: Look) -> bool:
    return re.search(r"99 % within [0-9]", await look.text("#types")) is not None


async def no_longer(look: Look, text: str) -> bool:
    return not await look.has("#verdicts", text)


async def test_acts_ask_first_and_take_a_token(stage: Stage) -> None:
    relay = stage.add_relay()
    gateways = [stage.add_gateway(f"gateway-{number}", env={"ADMIN_TOKEN": TOKEN}) for number in (1, 2)]
    await stage.start(relay, *gateways)
    ann = stage.users[0]
    plain = await stage.connect(ann, gateways[1])
    stage.clients.remove(plain)
    async with Look(console(gateways[0])) as look:
        await look.ask("fill", selector="#user", text=ann)
        await look.ask("press", key="Enter")
        await eventually(lambda: look.has("#ask", "is for operators"), "to be asked for a token")
        await look.ask("fill", selector="#token", text="another token")
        await look.click("#ask-yes")
        await eventually(lambda: look.has("#ask-said", "ADMIN_TOKEN"), "to be refused")
        await look.ask("fill", selector="#token", text=TOKEN)
        await look.click("#ask-yes")
        await eventually(lambda: look.has("#presence table", "1"), "ann to be found")
        assert TOKEN not in await look.ask("evaluate", script="location.href + JSON.stringify(localStorage)")

        await look.click("#presence button:has-text('Disconnect')")
        assert await look.has("#ask-title", f"Disconnect {ann}?")
        await look.ask("press", key="Escape")
        await asyncio.sleep(1)
        assert plain.is_connected, "nothing is done that was not confirmed"
        await look.click("#presence button:has-text('For good')")
        await look.click("#ask-yes")
        await eventually(lambda: look.has("#said", "closed, for good"), "to be told that it was done")
        await eventually(lambda: not plain.is_connected, "ann to be disconnected")
        assert plain.close_code == 4501
        await eventually(lambda: look.has("#presence", f"{ann} is not connected"), "it to be shown")
        await plain.close()

        await look.click(f"#replicas tr:has-text(':{gateways[1].port}') button")
        await look.click("#ask-yes")
        gateways[1].expected_to_run = False
        assert await gateways[1].wait(60) == 0
        # Nothing but the refusal of the wrong token.
        assert [one for one in await look.ask("complaints") if "401" not in one] == []


@contextlib.asynccontextmanager
async def running_demo() -> AsyncIterator[tuple[str, asyncio.subprocess.Process, list[str]]]:
    """The demo, as `make demo` starts it: the console's address, the process, its lines so far."""
    demo = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "demo", cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {"DEMO_SECONDS": "", "DEMO_PORTS": "any"}, start_new_session=True,
    )  # fmt: skip
    lines: list[str] = []

    async def read() -> None:
        assert demo.stdout is not None
        async for line in demo.stdout:
            lines.append(line.decode())

    reading = asyncio.create_task(read())
    address = re.compile(r"console +(http://\S+)")
    try:
        await eventually(
            lambda: any(map(address.search, lines)) or demo.returncode is not None, "the demo", seconds=120
        )
        found = next(filter(None, map(address.search, lines)), None)
        assert found is not None, "".join(lines)
        yield found[1], demo, lines
    finally:
        if demo.returncode is None:
            demo.send_signal(signal.SIGINT)
            await asyncio.wait_for(demo.wait(), 90)
        await reading


async def test_the_demo_is_broken_from_its_page_and_each_event_comes_once(tmp_path: Path) -> None:
    async with running_demo() as (address, demo, lines):
        async with Look(address) as look:
            await eventually(lambda: look.has("#demo-title", "Try it"), "the controls", seconds=60)

            async def open_clients(count: int) -> bool:
                found = await look.ask("evaluate", script="document.querySelectorAll('[data-state=open]').length")
                return bool(found == count)

            async def nothing_is_broken() -> bool:
                return re.search(r"Nothing is broken|slow client was closed", await look.text("#broken")) is not None

            await eventually(lambda: open_clients(12), "twelve clients", seconds=60)
            await look.ask("fill", selector="#count", text=str(CLIENTS))
            await look.click("#set-count")
            await eventually(lambda: open_clients(CLIENTS), "all clients", seconds=60)
            for type_ in ("regime_change", "market_alert", "risk_alert", "order_executed"):
                await look.click(f"#senders button:has-text('{type_}')")
                await eventually(lambda type_=type_: look.has("#events", type_), f"a {type_}", seconds=60)
            await eventually(lambda: all_got(look), "all to have got them", seconds=60)
            if os.environ.get("CONSOLE_SCREENSHOTS"):
                await asyncio.sleep(45)  # a picture of most of a minute
            await look.click("#senders button:has-text('risk_alert')")
            await eventually(lambda: all_got(look, 5), "those whom it is for to have got it", seconds=60)
            shown = await look.ask("evaluate", script="[...clients.children].map((one) => one.dataset.last).join(' ')")
            assert (shown.count("got"), shown.count("not-for")) == (CLIENTS // 4, CLIENTS - CLIENTS // 4)
            await picture(look, "console", tmp_path)

            for what, said in (
                ("[data-break=relay]", "The relay is dead"),
                ("[data-break=redis]", "Redis is cut off"),
                ("#drains button:nth-of-type(2)", "gateway-2 is down"),
            ):
                await look.click(what)
                await eventually(lambda said=said: look.has("#broken", said), said, seconds=60)
                await eventually(nothing_is_broken, f"{said}, and mended", seconds=90)

            async def slow_client_is_there() -> bool:
                """It is refused until what was started again is ready, which takes longer than to be running."""
                await look.click("[data-break=slow]")
                return bool(re.search("reads nothing|slow client was closed", await look.text("#broken")))

            await eventually(slow_client_is_there, "a client that reads nothing", seconds=90, poll_seconds=1.0)
            await eventually(lambda: look.has("#broken", "slow client was closed"), "it to be closed", seconds=90)
            await picture(look, "console-after", tmp_path)

            await look.click("#senders button:has-text('regime_change')")
            await eventually(lambda: open_clients(CLIENTS), "all clients again", seconds=60)

            async def have_it() -> bool:
                return (await look.text("#events")).startswith("regime_change") and await all_got(look)

            await eventually(have_it, "all to have got it", seconds=60)
            for counter in ("gaps", "doubled", "disordered"):
                assert await look.text(f"#{counter}") == "0", counter
            assert int((await look.text("#received")).replace(",", "")) > 100
        demo.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(demo.wait(), 120) == 0, "".join(lines[-10:])
        assert any("exactly once, in order, byte for byte" in line for line in lines)


async def all_got(look: Look, events: int = 1) -> bool:
    """So many events are shown at least, and everybody got each."""
    got = re.findall(r"(\d+) of (\d+)", await look.text("#events"))
    return len(got) >= events and all(have == wanted for have, wanted in got)
