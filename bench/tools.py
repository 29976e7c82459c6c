"""The C programs, processes on cores of their own, and the clock of another process's CPU time."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_SOURCES = Path(__file__).parent / "c"
_BUILT = Path(__file__).parent.parent / ".cache" / "bench"
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

SERVER_CORE = 0
CLIENT_CORE = 1


def build(name: str) -> str:
    """Compile `bench/c/<name>.c` when it is newer than what was built; gives the program's path."""
    source, program = _SOURCES / f"{name}.c", _BUILT / name
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        _BUILT.mkdir(parents=True, exist_ok=True)
        beside = program.with_suffix(f".{os.getpid()}")  # another process may be building, or running it
        subprocess.run(["cc", "-O2", "-w", "-o", str(beside), str(source)], check=True)
        beside.replace(program)
    return str(program)


def pin(pid: int, core: int) -> None:
    """Keep a process, with all its threads, on one core, where there are two."""
    if os.cpu_count() and os.cpu_count() != 1:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(ProcessLookupError):
                os.sched_setaffinity(int(task.name), {core})


@contextmanager
def on_all_cores() -> Iterator[None]:
    """Meanwhile this process runs on any core, and so does what it starts. Else `pin` keeps it on one, which its
    children inherit."""
    kept = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    try:
        yield
    finally:
        os.sched_setaffinity(0, kept)


@contextmanager
def progress(text: str) -> Iterator[None]:
    """What is being done, for people who wait."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()
    yield
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")


def cpu_seconds(pid: int) -> float:
    """CPU time a process has used, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def resident_bytes(pid: int) -> int:
    """Memory a process holds at present."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Received:
    """What a load client got."""

    messages: int
    p50_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    retry_after: tuple[int, ...]
    """How many were refused with 503 and told to come again after 0, 1, 2 ... seconds."""


class LoadClient:
    """`wsload`: many connections in one C thread. Async context manager; opens all on entering, and
    raises RuntimeError when not all could be, but for a `storm`. `headers` are more lines of the request.
    Latencies are those of every `sample`th message."""

    def __init__(
        self,
        port: int,
        path: str,
        connections: int,
        seconds: float,
        *,
        at_once: int = 128,
        headers: str = "",
        hello: str = "",
        storm: bool = False,
        sample: int = 101,
    ) -> None:
        self._storm = storm
        self._arguments = ["127.0.0.1", str(port), path, str(connections), str(seconds), hello]
        self._connections = connections
        self._env = {**os.environ, "CONC": str(at_once), "SAMPLE": str(sample), "EXTRA": headers}
        self._process: asyncio.subprocess.Process
        self.opened = 0
        self.connects_per_second = 0.0

    async def __aenter__(self) -> "LoadClient":
        self._process = await asyncio.create_subprocess_exec(
            build("wsload"),
            *self._arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL if self._storm else None,
            env=self._env,
        )
        pin(self._process.pid, CLIENT_CORE)
        line = await asyncio.wait_for(self._line(), 120)
        match = re.fullmatch(r"open (\d+) failed (\d+) in [\d.]+s \((\d+)/s\)\n", line)
        if match is None or (int(match[1]) != self._connections and not self._storm):
            raise RuntimeError(f"not all connections opened: {line!r}")
        self.opened = int(match[1])
        self.connects_per_second = float(match[3])
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def _line(self) -> str:
        assert self._process.stdout is not None
        return (await self._process.stdout.readline()).decode()

    @property
    def cpu_seconds(self) -> float:
        """CPU time that it has used so far."""
        return cpu_seconds(self._process.pid)

    async def stop(self) -> Received:
        """Have it end, once nothing has come to its sockets for a second, or after five."""
        self._process.terminate()
        return await self.result()

    async def result(self) -> Received:
        """Wait for its time to be over."""
        line = await self._line()
        total, retries = re.match(r"received (\d+) msgs", line), line.partition("Retry-After")[2].split()
        latency = re.match(r"latency ms p50 ([\d.]+) p90 [\d.]+ p99 ([\d.]+) p99.9 ([\d.]+)", await self._line())
        assert total is not None
        return Received(
            int(total[1]),
            float(latency[1]) if latency else None,
            float(latency[2]) if latency else None,
            float(latency[3]) if latency else None,
            tuple(map(int, retries)),
        )
