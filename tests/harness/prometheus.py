"""Prometheus and its promtool (Debian: apt-get install prometheus), where they are installed."""

import asyncio
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from demo.ports import free_port
from demo.process import Process, Processes

_MISSING = shutil.which("prometheus") is None or shutil.which("promtool") is None

needs_prometheus = pytest.mark.skipif(
    _MISSING and not os.environ.get("CI"), reason="needs prometheus and promtool (Debian: apt-get install prometheus)"
)


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run it to its end; its output is in `stdout`, with what it has against its input."""
    return subprocess.run(
        ["promtool", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120
    )


def add_prometheus(processes: Processes, config: Path) -> Process:
    """A Prometheus to be started, with this configuration and no data."""
    port = free_port()

    async def is_ready() -> bool:
        try:
            async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/-/ready") as response:
                return response.status == 200
        except (aiohttp.ClientError, OSError):
            return False

    return processes.add(
        "prometheus",
        [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={processes.folder / 'prometheus'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        ports={"http": port},
        ready=is_ready,
    )


async def ask(prometheus: Process, path: str, **query: str) -> Any:
    """The `data` of an answer of its HTTP API (/api/v1/...). An AssertionError with what it says is wrong."""
    url = f"http://127.0.0.1:{prometheus.port}/api/v1/{path}"
    async with asyncio.timeout(30), aiohttp.ClientSession() as session, session.get(url, params=query) as response:
        answer = await response.json()
    assert answer["status"] == "success", f"{query}: {answer.get('error')}"
    return answer["data"]
