"""The whole service on this machine, with events flowing: `make demo`, or `python -m demo`.

DEMO_SECONDS=20 ends it by itself; DEMO_VERBOSE=1 shows what its processes log; DEMO_PORTS=any takes any
free ports instead of the usual ones, so that several demos may start at once. Exit code 0 when all
that was delivered was right, whatever its controls broke; 1 when anything was lost, doubled, out of
order, altered or sent to the wrong person, when DEMO_SECONDS passed and nothing was delivered, or
when a process died that nobody ended; 130 when it was interrupted before everything ran.
"""

import asyncio
import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from shutil import get_terminal_size
from typing import Any, Self, TypeVar

from aiokafka import AIOKafkaProducer

from demo.controls import controls_app
from demo.live import live_line, summary, verdict
from demo.logs import shown_logs
from demo.oracle import LOST_AFTER_SECONDS, Oracle
from demo.place import Place
from demo.ports import free_port
from demo.process import NotReady, ProcessDied, Processes
from demo.proxy import Proxy
from demo.stack import Stack, http_url, start_stack, ws_url
from demo.status import Status
from demo.supervisor import Supervisor
from demo.watch import watching
from demo.watcher import WatchFailed
from shared.server import http_server

USERS = ("user-123", "user-456", "user-789", "user-007")
_TABS = 2
WS_PORTS, ADMIN_PORTS, RELAY_PORT, CONTROLS_PORT = (8000, 8010), (8001, 8011), 9100, 8900
_SETTLE_SECONDS = LOST_AFTER_SECONDS + 2.0  # what is owed then is lost, also if something was broken at the end
_INTERRUPTED_SETTLE_SECONDS = 2.0
_FAILURES = (ProcessDied, NotReady, WatchFailed, OSError)
_Result = TypeVar("_Result")


class Interrupted(Exception):
    """Ctrl-C or SIGTERM came before everything ran."""


async def demo(seconds: float | None, is_verbose: bool, *, has_usual_ports: bool) -> int:
    """Run for `seconds` (None: until interrupted) and give the exit code."""
    with _interrupts() as stop:
        async with Where(has_usual_ports) as where, Processes() as processes, shown_logs(processes, is_verbose):
            print("Starting Valkey, a Kafka-protocol broker, the relay and two gateway replicas ...", flush=True)
            try:
                stack = await _unless(stop, _start(processes, where))
                return await _run(stack, processes, where, stop, seconds, is_verbose)
            except Interrupted:
                return 130
            except _FAILURES as error:
                print(f"\nFAILED: {error}", file=sys.stderr, flush=True)
                return 1


class Where:
    """What stands beside the stack: a proxy before Redis, the console's addresses and the controls'.

    To be left after the stack has ended.
    """

    def __init__(self, has_usual_ports: bool) -> None:
        self.proxy: Proxy | None = None
        port = free_port if has_usual_ports else lambda _: free_port()
        self.ws_ports, self.admin_ports = tuple(map(port, WS_PORTS)), tuple(map(port, ADMIN_PORTS))
        self.relay_port, self.controls_port = port(RELAY_PORT), port(CONTROLS_PORT)
        self.origins = [f"http://{host}:{port}" for host in ("127.0.0.1", "localhost") for port in self.admin_ports]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.proxy is not None:
            await self.proxy.aclose()

    @property
    def gateway_env(self) -> dict[str, str]:
        return {
            "ADMIN_OPEN": "true",
            "CONSOLE_DEMO": f"http://127.0.0.1:{self.controls_port}",
            "ALLOWED_ORIGINS": ",".join(self.origins),
            "DRAIN_DELAY_SECONDS": "1",
            "DRAIN_SECONDS": "4",
            "SLOW_CLIENT_BYTES": "262144",  # for the slow client not to take long
            # Of two consoles with 200 clients each, and the watching ones are the oldest.
            "MAX_CONNECTIONS_PER_USER": "1000",
        }

    async def before_redis(self, port: int) -> int:
        self.proxy = await Proxy(port).start()
        return self.proxy.port


async def _start(processes: Processes, where: Where) -> Stack:
    # The watching clients compare bytes. A killed relay's partitions wait until its session has ended.
    relay_env = {"DROP_FIELDS": "", "REDPANDA_SESSION_SECONDS": "6"}
    return await start_stack(
        processes,
        ws_ports=where.ws_ports,
        admin_ports=where.admin_ports,
        relay_port=where.relay_port,
        relay_env=relay_env,
        gateway_env=where.gateway_env,
        before_redis=where.before_redis,
    )


async def _run(
    stack: Stack, processes: Processes, where: Where, stop: asyncio.Event, seconds: float | None, is_verbose: bool
) -> int:
    """Simulator and watching clients on a running stack, until told to stop; then the summary."""
    oracle = Oracle()
    replicas = {gateway.name: ws_url(gateway) for gateway in stack.gateways}
    place = Place(os.getpid(), stack.brokers, tuple(replicas.values()), stack.redis)
    simulator = processes.add_module(
        "demo.simulator", "--brokers", stack.brokers, "--users", ",".join(USERS), name="simulator"
    )
    watch = watching(oracle, brokers=stack.brokers, replicas=replicas, users=USERS, tabs=_TABS)
    with place.shown():
        async with (
            watch as following,
            Status(stack) as status,
            _controls(stack, where) as (supervisor, serving),
        ):
            simulator.start()
            _say_where(stack)
            started_at, parent = time.monotonic(), os.getppid()
            while seconds is None or time.monotonic() - started_at < seconds:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), 1.0)
                if _was_left_behind(parent):
                    stop.set()
                supervisor.look()
                try:
                    processes.check()
                except ProcessDied:  # a replica that an operator drained may have ended since
                    supervisor.look()
                    processes.check()
                for task in (following, serving):
                    if task.done():
                        task.result()
                if stop.is_set():
                    break
                oracle.look(time.time(), supervisor.whole_since)
                line = live_line(oracle.counts, oracle.recent(), await status.ask(), time.monotonic() - started_at)
                # A line that would wrap cannot be overwritten.
                overwrites = sys.stdout.isatty() and not is_verbose and len(line) < get_terminal_size().columns
                print(f"\r\033[K{line}" if overwrites else line, end="" if overwrites else "\n", flush=True)
            ran_seconds = time.monotonic() - started_at
            await simulator.terminate()
            if stop.is_set():
                await _settle(oracle, supervisor, _INTERRUPTED_SETTLE_SECONDS)
            else:
                await _settle(oracle, supervisor, _SETTLE_SECONDS)
                oracle.look(math.inf)
    for gateway in stack.gateways:
        gateway.signal(signal.SIGTERM)  # those of the console's clients need not be told slowly: a second one follows
    was_wrong = verdict(oracle.counts, must_deliver=not stop.is_set())
    print(f"\n{summary(oracle.counts, oracle.latencies, ran_seconds)}")
    print(f"FAILED: {was_wrong}" if was_wrong else "exactly once, in order, byte for byte", flush=True)
    return 1 if was_wrong else 0


@contextlib.asynccontextmanager
async def _controls(stack: Stack, where: Where) -> AsyncIterator[tuple[Supervisor, asyncio.Task[None]]]:
    """What the console's page can do to the demo, and a task that ends when that can no longer be asked for."""
    assert where.proxy is not None
    producer = AIOKafkaProducer(bootstrap_servers=stack.brokers, acks="all")
    await producer.start()
    supervisor = Supervisor(stack, where.proxy, producer)
    app = controls_app(stack, supervisor, producer, USERS, where.origins)
    try:
        serving = await http_server(app, "127.0.0.1", where.controls_port).start()
        try:
            yield supervisor, serving
        finally:
            serving.cancel()
            await asyncio.gather(serving, supervisor.aclose(), return_exceptions=True)
    finally:
        await producer.stop()


def _say_where(stack: Stack) -> None:
    first, second = stack.gateways
    print(f"""
    console      {http_url(first, "/console/", "admin")}

    connect      {ws_url(first, USERS[0])}
    or to        {ws_url(second, USERS[0])}
    health       {http_url(first, "/health")}  {http_url(second, "/health")}
    metrics      {http_url(first, "/metrics", "admin")}  {http_url(stack.relay, "/metrics")}
    look         .venv/bin/python -m demo.client --user {USERS[0]}
    send         .venv/bin/python -m demo.send --type risk_alert --user {USERS[0]}
    Kafka        {stack.brokers}    Redis  {stack.redis}
    users        {", ".join(USERS)}
    logs         {stack.relay.log_path.parent}    (DEMO_VERBOSE=1 shows them here)

Ctrl-C ends it all.
""")


def _was_left_behind(parent: int) -> bool:
    """Whether the `make` that started us was killed: nobody is there to press Ctrl-C."""
    return "MAKELEVEL" in os.environ and os.getppid() != parent


async def _settle(oracle: Oracle, supervisor: Supervisor, timeout_seconds: float) -> None:
    """Wait until everything sent has arrived or is counted as lost, as long as `timeout_seconds`."""
    deadline = time.monotonic() + timeout_seconds
    quiet_since = time.monotonic()
    while time.monotonic() < deadline:
        supervisor.look()
        oracle.look(time.time(), supervisor.whole_since)
        if oracle.outstanding():
            quiet_since = time.monotonic()
        elif time.monotonic() - quiet_since > 0.5:  # the last records may not have been read back yet
            return
        await asyncio.sleep(0.05)


@contextlib.contextmanager
def _interrupts() -> Iterator[asyncio.Event]:
    """An event that Ctrl-C and SIGTERM set; the second of them ends us at once."""
    stop, loop, numbers = asyncio.Event(), asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM)

    def interrupted() -> None:
        stop.set()
        for number in numbers:
            loop.remove_signal_handler(number)

    for number in numbers:
        loop.add_signal_handler(number, interrupted)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, _Result]) -> _Result:
    """The result of `work`; Interrupted when `stop` comes first."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Interrupted
        return working.result()
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)


def main() -> None:
    given = os.environ.get("DEMO_SECONDS") or None
    try:
        seconds = None if given is None else float(given)
    except ValueError:
        sys.exit(f"DEMO_SECONDS={given!r}: takes a number of seconds")
    ports, is_verbose = os.environ.get("DEMO_PORTS") or "usual", os.environ.get("DEMO_VERBOSE", "") not in ("", "0")
    if ports not in ("usual", "any"):
        sys.exit(f"DEMO_PORTS={ports!r}: takes usual or any")
    try:
        sys.exit(asyncio.run(demo(seconds, is_verbose, has_usual_ports=ports == "usual")))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
