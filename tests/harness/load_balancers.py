"""The load balancers of deploy/, started with the files that ship, edited in addresses and limits only."""

import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo.ports import free_port
from demo.process import ROOT, Process, Processes
from demo.stack import answers_ok

_SBIN = "/usr/sbin:/usr/local/sbin:/opt/homebrew/bin"
_ENVOY = ROOT / ".cache" / "envoy" / "envoy"

Edit = tuple[str, str]
"""What is found exactly once in a file, as a pattern, and what stands there instead."""


@dataclass(frozen=True)
class LoadBalancer:
    """One kind, and how it is started in a test."""

    name: str
    file: str
    """In deploy/."""
    find: Callable[[], str | None]
    """Its program; None where it is not installed."""
    edits: Callable[[int, Sequence[int], Path], list[Edit]]
    """Of the port that it listens on, those of the replicas, and a folder of its own."""
    command: Callable[[str, Path], list[str]]
    """Of its program and its file."""

    def program(self) -> str:
        """Skips the test where it is not installed; in CI that is a failure."""
        found = self.find()
        if found is None:
            missing = f"needs {self.name} (Debian: apt-get install {self.name}; Envoy: scripts/ci/get-envoy)"
            assert not os.environ.get("CI"), missing
            pytest.skip(missing)
        return found


def shipped(file: str, edits: Sequence[Edit]) -> str:
    """A file of deploy/, edited. Raises AssertionError where an edit has not exactly one place."""
    text = (ROOT / "deploy" / file).read_text()
    for pattern, instead in edits:
        text, count = re.subn(pattern, instead.replace("\\", r"\\"), text, flags=re.MULTILINE)
        assert count == 1, f"{file} has {pattern!r} {count} times"
    return text


async def start_load_balancer(
    processes: Processes, kind: LoadBalancer, replicas: Sequence[Process], *more_edits: Edit
) -> Process:
    """A load balancer before these replicas, ready when it passes on to one of them. Skips the test where it
    is not installed."""
    program, port, folder = kind.program(), free_port(), processes.folder / kind.name
    folder.mkdir()
    config = folder / kind.file
    edits = kind.edits(port, [replica.port for replica in replicas], folder)
    config.write_text(shipped(kind.file, [*edits, *more_edits]))
    process = processes.add(
        kind.name,
        kind.command(program, config),
        ports={"http": port},
        ready=lambda: answers_ok(f"http://127.0.0.1:{port}/readyz"),
    )
    return await process.start().wait_until_ready()


# nginx


def _nginx_edits(port: int, replicas: Sequence[int], folder: Path) -> list[Edit]:
    # Debian's 1.22 does not know `resolve`, which is for names.
    servers = "\n".join(f"server 127.0.0.1:{replica} max_fails=0;" for replica in replicas)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    return [
        (r"server gateway:8000 resolve max_fails=0;", servers),
        (r"^ *resolver 127\.0\.0\.11 .*;$", paths),
        (r"listen 8080;", f"listen 127.0.0.1:{port};"),
        (r"pid /tmp/nginx.pid;", f"pid {folder}/pid;"),
        (r"worker_rlimit_nofile \d+;", ""),
        (r"worker_connections \d+;", "worker_connections 500;"),
    ]


NGINX = LoadBalancer(
    "nginx",
    "nginx.conf",
    lambda: shutil.which("nginx") or shutil.which("nginx", path=_SBIN),
    _nginx_edits,
    lambda program, config: [
        *(program, "-e", str(config.with_name("error.log"))),
        *("-c", str(config), "-g", "daemon off;"),
    ],
)


# HAProxy


def _haproxy_edits(port: int, replicas: Sequence[int], _folder: Path) -> list[Edit]:
    servers = "\n".join(f"    server gateway-{replica} 127.0.0.1:{replica}" for replica in replicas)
    return [
        (r"^ *server-template gateway- 10 gateway:8000 .*$", servers),
        (r"bind :8080", f"bind 127.0.0.1:{port}"),
        (r"maxconn 20000", "maxconn 500"),
    ]


HAPROXY = LoadBalancer(
    "haproxy",
    "haproxy.cfg",
    lambda: shutil.which("haproxy") or shutil.which("haproxy", path=_SBIN),
    _haproxy_edits,
    lambda program, config: [program, "-db", "-f", str(config)],
)


# Envoy


def _envoy_edits(port: int, replicas: Sequence[int], _folder: Path) -> list[Edit]:
    def endpoint(port: int) -> str:
        return f"- endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}"

    endpoints = "\n".join(" " * 14 + endpoint(replica) for replica in replicas)
    return [
        (r"^ *- endpoint: .*$", endpoints),
        (r"address: 0\.0\.0\.0, port_value: 8080", f"address: 127.0.0.1, port_value: {port}"),
    ]


ENVOY = LoadBalancer(
    "envoy",
    "envoy.yaml",
    lambda: str(_ENVOY) if _ENVOY.exists() else shutil.which("envoy"),
    _envoy_edits,
    # Beside others that test: without the shared memory that a hot restart needs; one thread.
    lambda program, config: [
        *(program, "-c", str(config), "--disable-hot-restart"),
        *("--concurrency", "1", "--log-level", "warning"),
    ],
)
