"""The load balancers of deploy/, started with the files that ship, edited in addresses and limits only."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo.ports import free_port
from demo.process import ROOT, Process, Processes
from demo.stack import answers_ok
from harness.names import Names

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
    here: Callable[[int, Path], list[Edit]]
    """Of the port that it listens on, and a folder of its own."""
    fixed: Callable[[Sequence[int]], list[Edit]]
    """Of the replicas' ports, where they are not to be looked up."""
    looked_up: Callable[[int, int], list[Edit]]
    """Of the replicas' port, and that of a name server."""
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
    processes: Processes, kind: LoadBalancer, ports: Sequence[int], *more_edits: Edit
) -> Process:
    """A load balancer before the replicas at these ports, ready when it passes on to one of them. Skips the test
    where it is not installed."""
    return await _start(processes, kind, [*kind.fixed(ports), *more_edits])


async def start_load_balancer_that_looks_up(
    processes: Processes, kind: LoadBalancer, names: Names, replica_port: int
) -> Process:
    """The same, before the replicas at the addresses that `names` has."""
    return await _start(processes, kind, kind.looked_up(replica_port, names.port))


async def _start(processes: Processes, kind: LoadBalancer, edits: Sequence[Edit]) -> Process:
    program, port, folder = kind.program(), free_port(), processes.folder / kind.name
    folder.mkdir()
    config = folder / kind.file
    config.write_text(shipped(kind.file, [*kind.here(port, folder), *edits]))
    process = processes.add(
        kind.name,
        kind.command(program, config),
        ports={"http": port},
        ready=lambda: answers_ok(f"http://127.0.0.1:{port}/readyz"),
    )
    return await process.start().wait_until_ready()


# nginx


def _nginx() -> str | None:
    return os.environ.get("NGINX") or shutil.which("nginx") or shutil.which("nginx", path=_SBIN)


def _nginx_here(port: int, folder: Path) -> list[Edit]:
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    return [
        (r"listen 8080;", f"listen 127.0.0.1:{port};"),
        (r"server_tokens off;", f"server_tokens off; {paths}"),
        (r"pid /tmp/nginx.pid;", f"pid {folder}/pid;"),
        (r"worker_rlimit_nofile \d+;", ""),
        (r"worker_connections \d+;", "worker_connections 500;"),
        # A machine that tests may be slow.
        (r"proxy_connect_timeout 1s;", "proxy_connect_timeout 10s;"),
        (r"proxy_next_upstream_timeout 5s;", "proxy_next_upstream_timeout 60s;"),
    ]


def _nginx_fixed(replicas: Sequence[int]) -> list[Edit]:
    # Older ones do not know `resolve`.
    servers = "\n".join(f"server 127.0.0.1:{replica} max_fails=0;" for replica in replicas)
    return [(r"server gateway:8000 resolve max_fails=0;", servers)]


def _nginx_looked_up(replica_port: int, names_port: int) -> list[Edit]:
    version = subprocess.run([str(_nginx()), "-v"], capture_output=True, text=True, timeout=10).stderr
    number = re.search(r"nginx/([\d.]+)", version)
    if number is None or tuple(map(int, number[1].split("."))) < (1, 27, 3):
        pytest.skip(f"needs nginx 1.27.3 or newer for `resolve`, and this is {version.strip()}: NGINX=/path/to/nginx")
    return [
        (r"resolver 127\.0\.0\.11 ", f"resolver 127.0.0.1:{names_port} "),
        (r"gateway:8000 ", f"gateway:{replica_port} "),
    ]


NGINX = LoadBalancer(
    "nginx",
    "nginx.conf",
    _nginx,
    _nginx_here,
    _nginx_fixed,
    _nginx_looked_up,
    lambda program, config: [
        *(program, "-e", str(config.with_name("error.log"))),
        *("-c", str(config), "-g", "daemon off;"),
    ],
)


# HAProxy


def _haproxy_fixed(replicas: Sequence[int]) -> list[Edit]:
    servers = "\n".join(f"    server gateway-{replica} 127.0.0.1:{replica}" for replica in replicas)
    return [(r"^ *server-template gateway- 10 gateway:8000 .*$", servers)]


HAPROXY = LoadBalancer(
    "haproxy",
    "haproxy.cfg",
    lambda: shutil.which("haproxy") or shutil.which("haproxy", path=_SBIN),
    lambda port, _: [
        (r"bind :8080", f"bind 127.0.0.1:{port}"),
        (r"maxconn 20000", "maxconn 500"),
        (r"timeout connect 1s", "timeout connect 10s"),
    ],
    _haproxy_fixed,
    lambda replica_port, names_port: [
        (r"127\.0\.0\.11:53", f"127.0.0.1:{names_port}"),
        (r"gateway:8000 ", f"gateway:{replica_port} "),
    ],
    lambda program, config: [program, "-db", "-f", str(config)],
)


# Envoy


def _envoy_fixed(replicas: Sequence[int]) -> list[Edit]:
    def endpoint(port: int) -> str:
        return f"- endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}"

    return [(r"^ *- endpoint: .*$", "\n".join(" " * 14 + endpoint(replica) for replica in replicas))]


def _envoy_looked_up(replica_port: int, names_port: int) -> list[Edit]:
    # It asks the system's name server, unless it is told of another.
    resolver = f"""
          typed_dns_resolver_config:
            name: envoy.network.dns_resolver.cares
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig
              resolvers: [{{socket_address: {{address: 127.0.0.1, port_value: {names_port}}}}}]
              dns_resolver_options: {{no_default_search_domain: true}}"""
    return [
        (r"address: gateway, port_value: 8000", f"address: gateway, port_value: {replica_port}"),
        (r"respect_dns_ttl: false", f"respect_dns_ttl: false{resolver}"),
    ]


ENVOY = LoadBalancer(
    "envoy",
    "envoy.yaml",
    lambda: str(_ENVOY) if _ENVOY.exists() else shutil.which("envoy"),
    lambda port, _: [(r"address: 0\.0\.0\.0, port_value: 8080", f"address: 127.0.0.1, port_value: {port}")],
    _envoy_fixed,
    _envoy_looked_up,
    # Beside others that test: without the shared memory that a hot restart needs; one thread.
    lambda program, config: [
        *(program, "-c", str(config), "--disable-hot-restart"),
        *("--concurrency", "1", "--log-level", "warning"),
    ],
)
