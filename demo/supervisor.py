"""Breaks the running stack as it is told to, and mends it after a while, as a supervisor would."""

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from demo.process import NotReady, Process, ProcessDied
from demo.proxy import Proxy
from demo.slow import SlowClient
from demo.stack import Stack

RESTART_SECONDS: Final = 5.0
"""Between the end of a process and its next start."""

DRAIN_SECONDS: Final = 60.0
"""In which a replica has drained; then it is killed."""


class Busy(Exception):
    """Not now. Its text says why, and what to wait for."""


class Supervisor:
    """What may be done to a stack whose services reach Redis through `proxy`: one thing at a time to each, and
    one replica is always left. `look` is to be called about every second; `aclose` ends what is under way.
    """

    def __init__(self, stack: Stack, proxy: Proxy, producer: AIOKafkaProducer) -> None:
        self._stack = stack
        self._proxy = proxy
        self._producer = producer
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._heals_at = 0.0
        self._starts_at: dict[str, float] = {}
        self._failure: Exception | None = None
        self.whole_since = 0.0
        """When the last of what was broken was mended, or looked at while it was not yet; seconds since 1970."""
        self.slow: SlowClient | None = None
        """The last one, if it reads nothing still, or was closed for it."""

    @property
    def redis_cut_for_s(self) -> float | None:
        """None while Redis can be reached."""
        return max(0.0, self._heals_at - time.monotonic()) if self._proxy.mode != "pass" else None

    def starts_in_s(self, process: Process) -> float | None:
        """When a process is started again that is down; None for others."""
        at = self._starts_at.get(process.name)
        return None if at is None else max(0.0, at - time.monotonic())

    def look(self) -> None:
        """Start a replica again that somebody else has drained: an operator may.

        Raises what went wrong with something that was to be mended.
        """
        if self._failure is not None:
            raise self._failure
        if self._is_broken:
            self.whole_since = time.time()
        for gateway in self._stack.gateways:
            if gateway.expected_to_run and gateway.returncode == 0 and not self._is_under_way(gateway.name):
                gateway.expected_to_run = False
                self._do(gateway.name, self._started_again(gateway))

    async def kill(self, process: Process) -> None:
        """SIGKILL it, and start it again later. Raises Busy."""
        await self._leave_one_besides(process)
        self._do(process.name, self._killed(process))

    async def drain(self, gateway: Process) -> None:
        """SIGTERM it, and start it again when it has ended. Raises Busy."""
        await self._leave_one_besides(gateway)
        self._do(gateway.name, self._drained(gateway))

    def cut_redis(self, seconds: float) -> None:
        """Reset all connections to Redis, and each that comes, for so long. Raises Busy."""
        self._do("redis", self._redis_cut(seconds))

    async def start_slow_client(self) -> str:
        """Gives the name of the replica whose client it is. Raises Busy, also while anything is broken: what is
        sent to it would pile up in the broker."""
        ready = await self._ready_besides(None)
        if self._is_broken or not ready:
            raise Busy("a slow client needs all the rest to work: wait until it is mended")
        self._do("slow", self._slow(SlowClient(ready[0])))
        return ready[0].name

    async def aclose(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _leave_one_besides(self, process: Process) -> None:
        if process in self._stack.gateways and not await self._ready_besides(process):
            raise Busy(f"{process.name} is the only replica that is ready: wait until another is")

    async def _ready_besides(self, process: Process | None) -> list[Process]:
        ready = [one for one in self._stack.gateways if one is not process and await one.is_ready()]
        # Looked at last: meanwhile one of them may have been told to end.
        return [one for one in ready if not self._is_under_way(one.name)]

    @property
    def _is_broken(self) -> bool:
        return any(self._is_under_way(what) for what in self._tasks if what != "slow")

    def _is_under_way(self, what: str) -> bool:
        task = self._tasks.get(what)
        return task is not None and not task.done()

    def _do(self, what: str, doing: Coroutine[Any, Any, None]) -> None:
        if self._is_under_way(what):
            doing.close()
            raise Busy(f"{what} is being broken already: wait until it is mended")
        self._tasks[what] = asyncio.create_task(self._watched(doing))

    async def _watched(self, doing: Coroutine[Any, Any, None]) -> None:
        try:
            await doing
        except (NotReady, ProcessDied, OSError, KafkaError) as error:
            self._failure = error

    async def _killed(self, process: Process) -> None:
        await process.kill()
        await self._started_again(process)

    async def _drained(self, gateway: Process) -> None:
        code = await gateway.terminate(DRAIN_SECONDS)
        if code != 0:
            raise ProcessDied(f"{gateway.name} was drained and ended with exit code {code}\n{gateway.log_tail()}")
        await self._started_again(gateway)

    async def _started_again(self, process: Process) -> None:
        self._starts_at[process.name] = time.monotonic() + RESTART_SECONDS
        try:
            await asyncio.sleep(RESTART_SECONDS)
        finally:
            del self._starts_at[process.name]
        await process.start().wait_until_ready()

    async def _redis_cut(self, seconds: float) -> None:
        self._heals_at = time.monotonic() + seconds
        self._proxy.refuse()
        try:
            await asyncio.sleep(seconds)
        finally:
            self._proxy.heal()

    async def _slow(self, client: SlowClient) -> None:
        self.slow = client
        try:
            with contextlib.suppress(OSError):  # its replica is gone: nothing to see
                await client.run(self._producer)
        finally:
            if not client.is_closed:
                self.slow = None
