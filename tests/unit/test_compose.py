"""docker-compose.yml, and what it mounts. Nothing of it is started here: `docker compose config` took it by hand."""

import ast
import re
import sys
from typing import Any

import pytest
from deployed import SETTINGS, default_of, documents, gateway_end_seconds, relay_end_seconds, seconds

from demo.process import ROOT
from shared.message import TYPE_OF_TOPIC

OURS = ("relay", "gateway", "producer")
(COMPOSE,) = documents("docker-compose.yml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
IMPORTED = {"aiokafka", "demo", "shared"}
"""What the image and the folder that is mounted into it have for the producer."""


def test_every_port_is_published_on_loopback_only_and_once() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 5
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports), ports
    assert len({port.split(":")[1] for port in ports}) == len(ports)


def test_images_have_versions() -> None:
    for name, service in SERVICES.items():
        image = service["image"]
        assert ("build" in service) == (name in OURS)
        assert "build" in service or re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+(-[a-z]+)?", image), image


@pytest.mark.parametrize("name", OURS)
def test_ours_may_do_nothing_that_they_do_not_have_to(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert "user" not in service, "the image's own"


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting(name: str) -> None:
    assert set(SERVICES[name].get("environment", {})) <= SETTINGS


def test_who_is_let_in_is_said() -> None:
    assert SERVICES["gateway"]["environment"]["AUTH_MODE"] == "none"


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_is_there_and_read_only(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        source, _, *mode = volume.split(":")
        if source.startswith("./"):
            assert (ROOT / source).exists(), source
            assert mode == ["ro"], volume
        else:
            assert source in COMPOSE["volumes"]


def test_whoever_is_waited_for_says_that_it_is_well() -> None:
    for service in SERVICES.values():
        for name, wanted in service.get("depends_on", {}).items():
            if wanted["condition"] == "service_healthy" and name != "relay":  # its image says how
                assert SERVICES[name]["healthcheck"]["test"]


def test_the_services_are_given_the_time_that_they_take_to_end() -> None:
    assert seconds(SERVICES["gateway"]["stop_grace_period"]) > gateway_end_seconds()
    assert seconds(SERVICES["relay"]["stop_grace_period"]) > relay_end_seconds()


def test_all_topics_are_made() -> None:
    command = SERVICES["topics"]["command"]
    assert {*TYPE_OF_TOPIC, "notification-dead-letters"} == {
        word for word in command if word.endswith(("-events", "-letters"))
    }


def test_redis_is_one_that_the_relay_takes() -> None:
    command = SERVICES["redis"]["command"]
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"
    assert command[command.index("--appendonly") + 1] == "yes"


def test_the_producer_needs_nothing_that_the_image_has_not() -> None:
    module = SERVICES["producer"]["command"][0]
    found: set[str] = set()
    todo = [module]
    while todo:
        tree = ast.parse((ROOT / (todo.pop().replace(".", "/") + ".py")).read_text())
        for node in ast.walk(tree):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [name.name for name in node.names] if isinstance(node, ast.Import) else []
            todo += [name for name in names if name.startswith("demo.") and name not in found]
            found |= set(names)
    assert {name.partition(".")[0] for name in found} <= IMPORTED | sys.stdlib_module_names


def test_prometheus_finds_every_replica_at_the_port_that_it_listens_on() -> None:
    (prometheus,) = documents("deploy/prometheus.yml")
    asked = {
        job["job_name"]: (target["names"], target["type"], target["port"])
        for job in prometheus["scrape_configs"]
        for target in job["dns_sd_configs"]
    }
    assert asked == {
        "gateway": (["gateway"], "A", default_of("ADMIN_PORT")),
        "relay": (["relay"], "A", default_of("RELAY_HTTP_PORT")),
    }
    mounted = {volume.split(":")[1] for volume in SERVICES["prometheus"]["volumes"]}
    assert {f"/etc/prometheus/{file}" for file in prometheus["rule_files"]} <= mounted


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    (sources,) = documents("deploy/grafana/provisioning/datasources/prometheus.yml")
    (dashboards,) = documents("deploy/grafana/provisioning/dashboards/notification.yml")
    (source,), (provider,) = sources["datasources"], dashboards["providers"]
    host, _, port = source["url"].removeprefix("http://").partition(":")
    assert SERVICES[host]["ports"] == [f"127.0.0.1:{port}:{port}"]
    mounted = {volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]}
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home in mounted
    assert home.rpartition("/")[0] == provider["options"]["path"]
