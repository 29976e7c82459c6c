"""nginx.conf, haproxy.cfg and envoy.yaml, as they ship: their own programs take them, and they fit the settings."""

import re
import subprocess

import pytest
from deployed import default_of, documents, seconds
from harness.load_balancers import ENVOY, HAPROXY, LoadBalancer

from demo.process import ROOT

SILENCE_SECONDS = default_of("PING_INTERVAL_SECONDS") + default_of("PING_TIMEOUT_SECONDS")
"""The longest that nothing is said on a connection that is well; event streams have heartbeats more often."""


def shipped(file: str) -> str:
    return (ROOT / "deploy" / file).read_text()


def durations(file: str, pattern: str) -> list[float]:
    found = re.findall(pattern, shipped(file), re.MULTILINE)
    assert found, pattern
    return [seconds(text) for text in found]


@pytest.mark.parametrize(
    ("kind", "options"),
    [(HAPROXY, ["-c", "-f"]), (ENVOY, ["--mode", "validate", "-c"])],
    ids=["haproxy", "envoy"],
)
def test_its_program_takes_it_as_it_ships(kind: LoadBalancer, options: list[str]) -> None:
    command = [kind.program(), *options, str(ROOT / "deploy" / kind.file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert not re.search(r"\[(WARNING|ALERT)\]|[Dd]eprecated", output), output


def test_connections_may_be_silent_for_as_long_as_the_gateway_lets_them() -> None:
    for found in (
        durations("nginx.conf", r"proxy_(?:read|send)_timeout (\d+s);"),
        durations("haproxy.cfg", r"timeout (?:client|server|tunnel) (\d+s)$"),
        durations("envoy.yaml", r"stream_idle_timeout: (\d+s)$"),
    ):
        assert min(found) > 2 * SILENCE_SECONDS


def test_a_replica_that_drains_is_out_before_it_takes_no_more_clients() -> None:
    interval, failures = re.findall(r"check inter (\d+)s fall (\d+)", shipped("haproxy.cfg"))[0]
    assert int(interval) * (int(failures) + 1) < default_of("DRAIN_DELAY_SECONDS")
    assert "uri /readyz " in shipped("haproxy.cfg")
    (envoy,) = documents("deploy/envoy.yaml")
    (cluster,) = envoy["static_resources"]["clusters"]
    (check,) = cluster["health_checks"]
    assert seconds(check["interval"]) * (check["unhealthy_threshold"] + 1) < default_of("DRAIN_DELAY_SECONDS")
    assert check["http_health_check"]["path"] == "/readyz"


@pytest.mark.parametrize(
    ("file", "replica"),
    [("nginx.conf", "gateway:{} resolve"), ("haproxy.cfg", "gateway:{} "), ("envoy.yaml", "gateway, port_value: {}}}")],
)
def test_replicas_are_looked_up_at_the_port_that_they_listen_on(file: str, replica: str) -> None:
    assert shipped(file).count(replica.format(default_of("WS_PORT"))) == 1
