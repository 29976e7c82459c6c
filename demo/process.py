"""Child processes of the demo and of the scenario tests: started, awaited, ended, killed, their output in files."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parent.parent
_GUARD = Path(__file__).with_name("guard.py")
_POLL_SECONDS = 0.02

Ready = Callable[[], Awaitable[bool]]


class ProcessDied(Exception):
    """A process ended that should not have. Its text has the exit code and the last log lines."""


class NotReady(Exception):
    """A process runs but was not ready in time. Its text has the last log lines."""


class Process:
    """One child process that can be started, ended and started again with the same command.

    Made by `Processes.add`. Signals reach only this process; it lives in a session of its own, so
    a Ctrl-C in the terminal is its parent's to pass on. All waits poll, so a Process may be used
    from any event loop, one after the other (fixtures of pytest have several).

    `ports` are the ports it was told to listen on, by what for; `log_path` gets everything it
    prints, all lives one after the other.
    """

    def __init__(
        self,
        owner: "Processes",
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        ports: Mapping[str, int],
        ready: Ready | None,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.env = dict(env)
        self.ports = dict(ports)
        self.log_path = owner.folder / f"{name}.log"
        self.expected_to_run = False
        self._owner = owner
        self._ready = ready
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """The first of `ports`, the one its clients use."""
        return next(iter(self.ports.values()))

    @property
    def pid(self) -> int:
        """The pid of its present (or last) life."""
        assert self._popen is not None, f"{self.name} was never started"
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs (or before its first start), else its exit code; -9 for SIGKILL."""
        if self._popen is None:
            return None
        code = self._popen.poll()
        if code is not None:
            self._owner.ended(self._popen.pid)
        return code

    def reap(self) -> None:
        """Take the exit code of one that was killed; blocks for as long as the kernel takes for that."""
        self.expected_to_run = False
        if self._popen is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(timeout=5.0)
        _ = self.returncode

    @property
    def is_running(self) -> bool:
        return self._popen is not None and self.returncode is None

    def start(self) -> Self:
        """Start it, and return at once: `wait_until_ready` waits. From the main thread only (guard.run)."""
        assert not self.is_running, f"{self.name} runs already"
        with self.log_path.open("ab") as log:
            self._popen = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_GUARD), "run", str(os.getpid()), *self.command],
                env={**os.environ, **self.env},
                cwd=self._owner.folder,  # a .env in the checkout is not for us
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._owner.started(self._popen.pid)
        self.expected_to_run = True
        return self

    async def wait_until_ready(self, timeout_seconds: float = 90.0) -> Self:
        """Wait until it says it is ready. Raises ProcessDied when it ends instead, NotReady when
        that takes longer than `timeout_seconds`."""
        deadline = time.monotonic() + timeout_seconds
        while self._ready is not None and not await self._ready():
            self.check()
            if time.monotonic() > deadline:
                raise NotReady(f"{self.name} was not ready within {timeout_seconds:g} s\n{self.log_tail()}")
            await asyncio.sleep(_POLL_SECONDS)
        self.check()
        return self

    def check(self) -> None:
        """Raise ProcessDied when it ended and nobody here asked it to."""
        if self.expected_to_run and self.returncode is not None:
            raise ProcessDied(f"{self.name} ended by itself with exit code {self.returncode}\n{self.log_tail()}")

    async def is_ready(self) -> bool:
        """Whether it runs, and says that it is ready."""
        return self.is_running and (self._ready is None or await self._ready())

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, e.g. SIGSTOP and SIGCONT; nothing happens when it has ended."""
        if self.is_running:
            os.kill(self.pid, number)

    async def wait(self, timeout_seconds: float = 10.0) -> int:
        """Wait until it has ended and give its exit code. Raises TimeoutError."""
        self.expected_to_run = False
        deadline = time.monotonic() + timeout_seconds
        while (code := self.returncode) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} still runs after {timeout_seconds:g} s\n{self.log_tail()}")
            await asyncio.sleep(_POLL_SECONDS)
        return code

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.expected_to_run = False
        self.signal(signal.SIGKILL)
        if self._popen is not None:
            await self.wait()

    async def terminate(self, timeout_seconds: float = 90.0) -> int:
        """SIGTERM, and its exit code; -9 when it had to be killed after `timeout_seconds`."""
        self.expected_to_run = False
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)  # a stopped process cannot end
        try:
            return await self.wait(timeout_seconds)
        except TimeoutError:
            await self.kill()
            return -signal.SIGKILL

    async def restart(self, timeout_seconds: float = 90.0) -> Self:
        """Kill it (when it runs), start it again with the same command and ports, wait until ready."""
        if self.is_running:
            await self.kill()
        return await self.start().wait_until_ready(timeout_seconds)

    def log(self) -> str:
        """Everything it has printed."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_tail(self, lines: int = 20) -> str:
        """The last lines it has printed, indented."""
        return "".join(f"    {self.name} | {line}\n" for line in self.log().splitlines()[-lines:])


class Processes:
    """Owns child processes and their folder: when it is left, for whatever reason, they are gone.

        async with Processes() as processes:
            server = processes.add("server", [...])

    Leaving ends them with SIGTERM, in the reverse of the order in which they were added, and kills
    those that take longer than 5 s. When this process itself is killed, its guard kills them.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="notify-"))
        self.all: list[Process] = []
        self._running: set[int] = set()
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_GUARD), "watch", str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.folder.parent,
            start_new_session=True,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            for process in reversed(self.all):
                await process.terminate(timeout_seconds=5.0)
        finally:
            self.close()

    def add(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        ports: Mapping[str, int] | None = None,
        ready: Ready | None = None,
    ) -> Process:
        """A process to be started. `name` is unique here and names its log; `env` is added to our own
        environment; `ready` says whether it is, without raising."""
        assert all(process.name != name for process in self.all), f"there is a {name} already"
        process = Process(self, name, command, env=env or {}, ports=ports or {}, ready=ready)
        self.all.append(process)
        return process

    def add_module(
        self,
        module: str,
        *arguments: str,
        name: str | None = None,
        env: Mapping[str, str] | None = None,
        ports: Mapping[str, int] | None = None,
        ready: Ready | None = None,
    ) -> Process:
        """`python -m <module>` of this checkout, with this interpreter."""
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
        full_env = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **(env or {})}
        command = [sys.executable, "-m", module, *arguments]
        return self.add(name or module, command, env=full_env, ports=ports, ready=ready)

    def check(self) -> None:
        """Raise ProcessDied when one has ended and nobody here asked it to."""
        for process in self.all:
            process.check()

    def close(self) -> None:
        """Kill what still runs and remove the folder, at once. May be called twice."""
        if self._guard.stdin is not None and not self._guard.stdin.closed:
            self._guard.stdin.close()
        self._guard.wait(timeout=10.0)
        for process in self.all:
            process.reap()
        shutil.rmtree(self.folder, ignore_errors=True)

    def started(self, pid: int) -> None:
        """For Process: `pid` is to be killed when we go."""
        self._running.add(pid)
        self._tell(f"+{pid}\n")

    def ended(self, pid: int) -> None:
        """For Process: `pid` was reaped and may soon be somebody else's."""
        if pid in self._running:
            self._running.discard(pid)
            self._tell(f"-{pid}\n")

    def _tell(self, line: str) -> None:
        assert self._guard.stdin is not None
        if not self._guard.stdin.closed:
            self._guard.stdin.write(line.encode())
            self._guard.stdin.flush()
