"""The image, without Docker: the Dockerfile's steps are replayed in a folder, and its services started from there."""

import asyncio
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from harness.stage import Stage
from harness.waiting import eventually

from demo.ports import free_port
from demo.process import ROOT, Process
from demo.stack import answers_ok
from demo.valkey import redis_url
from scripts.lock import pins

MADE_BY_BUILDING = ("/opt", "/build")
"""The folders of the image that its steps write to."""


def instructions() -> list[tuple[str, str]]:
    """Each instruction of the Dockerfile, and what it is given."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


class Image:
    """The file system of the last stage, as far as it is ours, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings: dict[str, str] = {}
        """Of WORKDIR, USER and so on: the last that was given."""
        self.env: dict[str, str] = {}
        self._stages: dict[str, Path] = {}
        self._root = folder
        for name, given in instructions():
            self._step(name, given)

    def _step(self, name: str, given: str) -> None:
        match name:
            case "FROM":
                image, _, stage = given.partition(" AS ")
                self._root = self.folder / (stage or "last")
                self._root.mkdir()
                self._stages[stage] = self._root
                self.env = {}
                assert re.fullmatch(r"python:3\.\d+-slim", image), image
            case "COPY":
                self._copy(given)
            case "RUN":
                self._run(given)
            case "ENV":
                self.env |= dict(pair.split("=", 1) for pair in shlex.split(self._here(given)))
            case _:
                self.settings[name] = given

    def _copy(self, given: str) -> None:
        *options, source, target = given.split()
        if options:
            (stage,) = (option.removeprefix("--from=") for option in options)
            start = self._stages[stage]
        else:
            start = ROOT
            allowed = (ROOT / ".dockerignore").read_text().splitlines()
            assert f"!{source}" in allowed, f".dockerignore keeps {source} from the build"
        found, place = start / source.lstrip("/"), self._root / target.lstrip("/")
        if target.endswith("/"):
            place = place / found.name
        place.parent.mkdir(parents=True, exist_ok=True)
        if found.is_dir():
            shutil.copytree(
                found, place, symlinks=True, ignore=shutil.ignore_patterns("__pycache__") if not options else None
            )
        else:
            shutil.copy(found, place)

    def _run(self, command: str) -> None:
        # `python` and `pip` as the base image has them.
        programs = self.folder / "programs"
        programs.mkdir(exist_ok=True)
        (programs / "pip").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m pip "$@"\n')
        (programs / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
        for program in programs.iterdir():
            program.chmod(0o755)
        env = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["/bin/sh", "-c", self._here(command)], env=env, capture_output=True, text=True, timeout=300
        )
        if done.returncode != 0 and "pip" in command and not os.environ.get("CI"):
            pytest.skip(f"needs pip and a package index: {done.stderr[-500:]}")
        assert done.returncode == 0, done.stderr

    def _here(self, text: str) -> str:
        """With the image's paths as those of the folder."""
        return re.sub(rf"(?<![\w.])({'|'.join(MADE_BY_BUILDING)})/", rf"{self._root}\1/", text)

    @property
    def app(self) -> Path:
        """WORKDIR."""
        return self._root / self.settings["WORKDIR"].lstrip("/")

    def command(self, *arguments: str) -> list[str]:
        """How a container starts, in its folder."""
        entrypoint = json.loads(self.settings["ENTRYPOINT"])
        inside = [*entrypoint, *(arguments or json.loads(self.settings["CMD"]))]
        return ["/bin/sh", "-c", 'cd "$0" && exec "$@"', str(self.app), *inside]

    def files(self) -> dict[str, tuple[int, int]]:
        """Everything in it, with size and time of the last change."""
        return {
            str(path.relative_to(self._root)): (path.lstat().st_size, path.lstat().st_mtime_ns)
            for path in self._root.rglob("*")
        }


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    # Short, and not below the checkout: what is found there must come from the image.
    with tempfile.TemporaryDirectory(prefix="notify-image-") as folder:
        yield Image(Path(folder))


def test_it_has_a_user_without_rights_and_starts_without_a_shell() -> None:
    settings = dict(instructions())
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", settings["USER"])
    for form in ("ENTRYPOINT", "CMD"):
        assert json.loads(settings[form]), "exec form: SIGTERM reaches the service"


def test_it_has_the_locked_packages_for_the_services_and_little_else(image: Image) -> None:
    found = image.folder.glob("last/opt/venv/**/*.dist-info")
    installed = {re.sub(r"[-_.]+", "-", path.name.split("-")[0]).lower() for path in found}
    assert installed == set(pins((ROOT / "requirements" / "runtime.txt").read_text()))
    # The base image has 120 MB beside it.
    assert sum(size for size, _ in image.files().values()) < 150_000_000


async def test_its_services_run_from_it_and_write_nothing(image: Image, stage: Stage) -> None:
    ws, admin, relay_http = free_port(), free_port(), free_port()
    # The producer of docker-compose.yml finds this folder there.
    (image.app / "demo").symlink_to(ROOT / "demo")
    before = image.files()
    # Wherever a program would write, it is in the image.
    env = {
        **image.env,
        **dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME"), str(image.app)),
        "PATH": image.env["PATH"].replace("$PATH", os.environ["PATH"]),
        "PYTHONPATH": "",
        "AUTH_MODE": "none",
        "REDIS_URL": redis_url(stage.redis),
        "REDPANDA_BROKERS": stage.bootstrap,
        "REDPANDA_FETCH_WAIT_MS": "5",
        "REDIS_PREFIX": stage.prefix,
        "REDPANDA_GROUP_ID": stage.group_id,
        "WS_PORT": str(ws),
        "ADMIN_PORT": str(admin),
        "RELAY_HTTP_PORT": str(relay_http),
        "DRAIN_DELAY_SECONDS": "0",
        "DRAIN_SECONDS": "0",
    }

    def add(name: str, port: int, *arguments: str) -> Process:
        url = f"http://127.0.0.1:{port}/readyz"
        return stage.processes.add(
            f"image-{name}", image.command(*arguments), env=env, ports={"ws": port}, ready=lambda: answers_ok(url)
        )

    gateway, relay = add("gateway", ws), add("relay", relay_http, "relay")
    await stage.start(gateway, relay)
    client = await stage.connect(stage.users[0], gateway)
    await stage.producer.publish_mixed(stage.users, 20)
    await stage.everything_arrived([client])
    # docker-compose.yml has the image publish sample events, too.
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    words = [word.replace("redpanda:9092", stage.bootstrap) for word in compose["services"]["producer"]["command"]]
    producer = stage.processes.add("image-producer", image.command(*words), env=env).start()
    frames = len(client.frames)
    await eventually(lambda: len(client.frames) > frames + 5 or not producer.is_running, "sample events")
    assert await producer.terminate() == 0, producer.log()
    # How the container's health is asked for.
    options, _, given = image.settings["HEALTHCHECK"].partition(" CMD ")
    assert "--interval" in options
    for path in ("/livez", "/readyz"):
        command = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', str(image.app), *json.loads(given)[:-1], path]

        async def is_healthy(command: list[str] = command) -> bool:
            check = await asyncio.create_subprocess_exec(*command, env={**os.environ, **env})
            return await asyncio.wait_for(check.wait(), 60) == 0

        await eventually(is_healthy, f"{path} to be asked for")
    for service in (gateway, relay):
        service.expected_to_run = False
        assert await service.terminate() == 0, service.log()
    assert image.files() == before
