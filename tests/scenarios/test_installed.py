"""What `pip install` of the wheel gives: two commands that need nothing of this checkout."""

import asyncio
import os
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from harness.clients import WebsocketsClient
from harness.stage import Stage
from harness.waiting import eventually

from demo.ports import free_port
from demo.process import ROOT
from demo.stack import answers_ok
from demo.valkey import redis_url
from shared.version import VERSION

COMMANDS = ("notification-gateway", "notification-relay")
PACKAGES = ("gateway", "relay", "shared")

BUILD = "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"
"""Without pip, which would fetch setuptools anew and without a hash."""


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """The wheel, built from a copy: a build leaves folders behind."""
    source, built = tmp_path / "source", tmp_path / "wheel"
    for folder in (source, built):
        folder.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in (*PACKAGES, "demo", "bench", "tests", "scripts"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-c", BUILD, built], cwd=source, check=True, capture_output=True)
    (path,) = built.iterdir()
    return path


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Path:
    """The folder of the commands, in an environment with the wheel and the packages of the lock."""
    environment = tmp_path / "installed"
    made = subprocess.run([sys.executable, "-m", "venv", environment], capture_output=True, text=True, check=False)
    if made.returncode:
        _is_missing(f"venv cannot make an environment with pip: {made.stdout}{made.stderr}")
    pip = [environment / "bin" / "python", "-m", "pip", "install", "--no-deps", "--no-compile", "-q"]
    for what in (["--require-hashes", "-r", ROOT / "requirements" / "runtime.txt"], ["--no-index", wheel]):
        done = subprocess.run([*pip, *what], cwd=environment, capture_output=True, text=True, check=False)
        if "No matching distribution" in done.stderr:
            _is_missing(f"the package index cannot be reached: {done.stderr}")
        assert done.returncode == 0, done.stderr
    return environment / "bin"


def _is_missing(why: str) -> None:
    """Skip; in CI what is needed has to be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


def test_the_wheel_has_what_the_code_reads_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (info,) = (name.partition("/")[0] for name in names if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        commands = archive.read(f"{info}/entry_points.txt").decode()
    ours = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.*")
        if path.parent.name != "__pycache__"
    }
    assert {"relay/publish.lua", "gateway/presence.lua", "gateway/console/index.html", "shared/py.typed"} <= ours
    assert ours <= names
    assert all(name.startswith(f"{info}/") for name in names - ours)
    assert f"{info}/licenses/LICENSE" in names
    assert (metadata["Name"], metadata["Version"]) == ("bloasis-notification", VERSION)
    assert set(metadata.get_all("Provides-Extra") or ()) >= {"tracing"}
    assert all(command in commands for command in COMMANDS)


async def test_the_commands_say_what_they_are_and_deliver_an_event(installed: Path, stage: Stage) -> None:
    for command in COMMANDS:
        assert await said(stage, installed / command, "--version") == f"bloasis-notification {VERSION}\n"
        assert f"usage: {command} " in await said(stage, installed / command, "--help")
    port, relay_port = free_port(), free_port()
    env = {
        "PYTHONPATH": "",
        "REDIS_URL": redis_url(stage.redis),
        "REDPANDA_BROKERS": stage.bootstrap,
        "REDIS_PREFIX": stage.prefix,
        "REDPANDA_GROUP_ID": stage.group_id,
        "WS_PORT": str(port),
        "ADMIN_PORT": str(free_port()),
        "RELAY_HTTP_PORT": str(relay_port),
        "DRAIN_DELAY_SECONDS": "0",
        "DRAIN_SECONDS": "0",
    }
    ports = dict(zip(COMMANDS, (port, relay_port), strict=True))
    services = [
        stage.processes.add(
            command,
            [str(installed / command)],
            env=env,
            ports={"http": ports[command]},
            ready=lambda port=ports[command]: answers_ok(f"http://127.0.0.1:{port}/readyz"),  # type: ignore[misc]
        ).start()
        for command in COMMANDS
    ]
    await asyncio.gather(*(service.wait_until_ready() for service in services))
    client = WebsocketsClient(port, stage.users[0], COMMANDS[0])
    await client.open()
    event = await stage.producer.publish("risk-events", stage.users[0])
    await eventually(lambda: bool(client.frames), "the event")
    assert event.data in client.frames[0]
    status, page = await stage.get(services[0], "/asyncapi.json")
    assert (status, page["info"]["version"]) == (200, VERSION)
    await client.close()
    assert [await service.terminate() for service in services] == [0, 0]


async def said(stage: Stage, command: Path, option: str) -> str:
    name = f"{command.name}{option}"
    process = stage.processes.add(name, [str(command), option], env={"PYTHONPATH": "", "COLUMNS": "120"}).start()
    assert await process.wait(60) == 0
    return process.log()
