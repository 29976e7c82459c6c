"""The demo, whatever its controls and the console's acts do to it: nothing is lost, and its exit code says so."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import aiohttp
from harness.waiting import PATIENCE, eventually

from demo.process import ROOT

_CONSOLE = re.compile(r"console +(http://\S+)/console/")
_LONGEST_LINE_BYTES = 1 << 20


class Demo:
    """A running one, its lines so far, and requests to it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self.admin = ""
        self.controls = ""
        self.session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60))

    async def read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(line.decode())

    def is_said(self, what: str) -> bool:
        return any(what in line for line in self.lines)

    async def open(self) -> None:
        await eventually(lambda: self.process.returncode is not None or self.is_said("Ctrl-C ends"), "the demo to run")
        found = next(filter(None, map(_CONSOLE.search, self.lines)), None)
        assert found is not None, "".join(self.lines)
        self.admin = found[1]
        async with self.session.get(f"{self.admin}/console/config") as response:
            self.controls = (await response.json())["demo"]

    async def state(self) -> Any:
        async with self.session.get(f"{self.controls}/state") as response:
            assert response.status == 200
            return await response.json()

    async def control(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        headers = {"X-Notify-Demo": "1"} if headers is None else headers
        async with self.session.post(f"{self.controls}/{path}", json=body, headers=headers) as response:
            return response.status, await response.json()

    async def act(self, act: str, body: Mapping[str, Any]) -> str:
        headers = {"X-Notify-Admin": "1"}
        async with self.session.post(f"{self.admin}/admin/{act}", json=body, headers=headers) as response:
            said = await response.json()
            assert response.status == 200, said
            return str(said["done"])

    async def fleet(self) -> Any:
        async with self.session.get(f"{self.admin}/console/feed") as response:
            async for line in response.content:
                if line.startswith(b"data: "):
                    return json.loads(line[len("data: ") :])
        raise AssertionError("the feed has ended")

    async def until(self, is_so: str) -> None:
        """`is_so` is a name of one of the conditions below."""
        await eventually(lambda: CONDITIONS[is_so](self), lambda: f"{is_so}; {''.join(self.lines[-5:])}", seconds=60)


async def _is_whole(demo: Demo) -> bool:
    state = await demo.state()
    runs = [state["relay"], *state["replicas"]]
    return all(one["running"] for one in runs) and state["redis"]["cut_for_s"] is None


async def _all_are_ready(demo: Demo) -> bool:
    fleet = await demo.fleet()
    ready = [one for one in fleet["replicas"] if one["state"] == "ready" and one["seen_ms_ago"] < 3_000]
    return len(ready) == 2


async def _relay_is_dead(demo: Demo) -> bool:
    return not (await demo.state())["relay"]["running"]


async def _second_is_down(demo: Demo) -> bool:
    return not (await demo.state())["replicas"][1]["running"]


async def _slow_client_is_closed(demo: Demo) -> bool:
    slow = (await demo.state())["slow"]
    return slow is not None and slow["closed"]


async def _users_are_known(demo: Demo) -> bool:
    user = (await demo.state())["users"][0]
    headers = {"X-Notify-Admin": "1"}
    async with demo.session.post(f"{demo.admin}/admin/presence", json={"user_id": user}, headers=headers) as response:
        return len((await response.json())["replicas"]) == 2


CONDITIONS = {
    "users to be known as connected": _users_are_known,
    "all to run": _is_whole,
    "two replicas to be ready": _all_are_ready,
    "the relay to be dead": _relay_is_dead,
    "the second replica to be down": _second_is_down,
    "the slow client to be closed": _slow_client_is_closed,
}


@asynccontextmanager
async def running_demo(seconds: float | None) -> AsyncIterator[Demo]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "demo"),
        cwd=ROOT,
        env=os.environ | {"DEMO_SECONDS": "" if seconds is None else str(seconds), "DEMO_PORTS": "any"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
        limit=_LONGEST_LINE_BYTES,
    )
    demo = Demo(process)
    reading = asyncio.create_task(demo.read())
    try:
        await demo.open()
        yield demo
    finally:
        await demo.session.close()
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
            await asyncio.wait_for(process.wait(), 60 * PATIENCE)
        await reading


async def ends_well(demo: Demo) -> None:
    code = await asyncio.wait_for(demo.process.wait(), 60 * PATIENCE)
    assert code == 0, "".join(demo.lines[-20:])
    await eventually(lambda: demo.is_said("exactly once, in order, byte for byte"), "the verdict")


async def test_each_control_is_used_and_nothing_is_lost() -> None:
    async with running_demo(None) as demo:
        users = (await demo.state())["users"]
        url = (await demo.state())["replicas"][1]["ws"]
        event_id = str(uuid4())
        async with demo.session.ws_connect(f"{url}?user_id={users[0]}") as ws:
            sent = {"type": "risk_alert", "user": users[0], "event_id": event_id}
            status, said = await demo.control("send", sent)
            assert status == 200
            assert said["id"].startswith("risk-events/")
            async with asyncio.timeout(30 * PATIENCE):
                while json.loads(await ws.receive_str())["data"].get("event_id") != event_id:
                    pass

        assert await _one_of_two_is_taken(demo, "relay", {"action": "kill"})
        await demo.until("the relay to be dead")
        await demo.until("all to run")

        assert await _one_of_two_is_taken(demo, "redis", {"seconds": 10})
        await demo.until("all to run")

        await eventually(lambda: _is_taken(demo, "replica", {"name": "gateway-2", "action": "drain"}), "a drain")
        status, said = await demo.control("replica", {"name": "gateway-1", "action": "drain"})
        assert (status, said["error"]) == (409, "busy"), "one is left"
        await demo.until("the second replica to be down")
        await demo.until("two replicas to be ready")

        await eventually(lambda: _one_of_two_is_taken(demo, "slow", {}), "a slow client")
        await demo.until("the slow client to be closed")

        await eventually(lambda: _is_taken(demo, "replica", {"name": "gateway-2", "action": "kill"}), "a kill")
        await demo.until("the second replica to be down")
        await demo.until("two replicas to be ready")

        demo.process.send_signal(signal.SIGINT)
        await ends_well(demo)


async def _is_taken(demo: Demo, path: str, body: Mapping[str, Any]) -> bool:
    return (await demo.control(path, body))[0] == 200


async def _one_of_two_is_taken(demo: Demo, path: str, body: Mapping[str, Any]) -> bool:
    """At once: what the first began may be over before a slow machine asks for the second."""
    answers = await asyncio.gather(demo.control(path, body), demo.control(path, body))
    return {status for status, _ in answers} == {200, 409}


async def test_an_operators_acts_do_not_end_it() -> None:
    async with running_demo(150) as demo:
        user = (await demo.state())["users"][0]
        await demo.until("users to be known as connected")
        assert "for good" in await demo.act("disconnect", {"user_id": user, "retry": False})
        second = (await demo.state())["replicas"][1]["ws"].rpartition(":")[2].removesuffix("/ws")
        (name,) = [one["name"] for one in (await demo.fleet())["replicas"] if one["address"] == second]
        await demo.act("drain", {"replica": name})
        await demo.until("the second replica to be down")
        await demo.until("two replicas to be ready")
        await ends_well(demo)
