"""deploy/kubernetes: what `kubectl kustomize` makes of it fits Kubernetes' schemas, and the services' settings."""

import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import kubernetes_validate
import pytest
import yaml
from deployed import SETTINGS, default_of, documents, gateway_end_seconds, relay_end_seconds

from demo.process import ROOT
from scripts.prometheus_rule import FILE, RULES, render

FOLDER = "deploy/kubernetes"
VERSION = "1.37"
OF_THE_OPERATOR = ("PodMonitor", "PrometheusRule")
"""Whose schemas are not Kubernetes' own."""

Resource = dict[str, Any]


@cache
def files() -> dict[tuple[str, str], Resource]:
    """The resources as they are written, by kind and name."""
    paths = sorted((ROOT / FOLDER).glob("*/*.yaml"))
    resources = [one for path in paths for one in documents(str(path.relative_to(ROOT)))]
    return {(one["kind"], one["metadata"]["name"]): one for one in resources if one["kind"] != "Kustomization"}


@cache
def applied() -> list[Resource]:
    """What is applied to a cluster with the example. Skips the test without kubectl, which Debian does not have."""
    kubectl = shutil.which("kubectl", path=ROOT / ".cache" / "kubectl") or shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("needs kubectl: scripts/ci/get-kubectl")
    made = subprocess.run(
        [kubectl, "kustomize", str(ROOT / FOLDER / "example")], capture_output=True, text=True, timeout=60
    )
    assert made.returncode == 0, made.stderr
    return list(yaml.safe_load_all(made.stdout))


def pod_of(name: str) -> Resource:
    pod: Resource = files()["Deployment", name]["spec"]["template"]["spec"]
    return pod


def container_of(name: str) -> Resource:
    (container,) = pod_of(name)["containers"]
    assert isinstance(container, dict)
    return container


def variables() -> Iterator[tuple[str, str]]:
    """Each variable that is set, and its value."""
    for overlay in ("base", "example"):
        (kustomization,) = documents(f"{FOLDER}/{overlay}/kustomization.yaml")
        for generator in kustomization["configMapGenerator"]:
            for literal in generator["literals"]:
                name, _, value = literal.partition("=")
                yield name, value
    for name in ("gateway", "relay"):
        yield from ((one["name"], one["value"]) for one in container_of(name).get("env", []))


SERVICES = ("gateway", "relay")


def fits(resources: Iterable[Resource]) -> None:
    for resource in resources:
        if resource["kind"] not in OF_THE_OPERATOR:
            kubernetes_validate.validate(resource, VERSION, strict=True)


def test_what_is_written_fits_the_schemas() -> None:
    assert len(files()) > 10
    fits(files().values())


def test_what_is_applied_fits_the_schemas() -> None:
    assert len(applied()) == len(files()) + 3, "all that is written, and three ConfigMaps"
    fits(applied())


def test_what_does_not_fit_is_found() -> None:
    deployment = files()["Deployment", "gateway"]
    wrong = {**deployment, "spec": {**deployment["spec"], "replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSION, strict=True)


def test_what_is_referred_to_is_there() -> None:
    config_maps = {one["metadata"]["name"] for one in applied() if one["kind"] == "ConfigMap"}
    for deployment in (one for one in applied() if one["kind"] == "Deployment"):
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        named = {ref["configMapRef"]["name"] for ref in container["envFrom"] if "configMapRef" in ref}
        assert len(named) == 2
        assert named <= config_maps
        account = deployment["spec"]["template"]["spec"]["serviceAccountName"]
        assert any((one["kind"], one["metadata"]["name"]) == ("ServiceAccount", account) for one in applied())
        assert container["image"].startswith("registry.example.com/")


def test_every_variable_is_a_setting() -> None:
    found = list(variables())
    assert len(found) > 8
    assert {name for name, _ in found} <= SETTINGS


@pytest.mark.parametrize(
    ("name", "ports"),
    [("gateway", {"ws": "WS_PORT", "admin": "ADMIN_PORT"}), ("relay", {"http": "RELAY_HTTP_PORT"})],
)
def test_ports_are_those_that_the_services_listen_on(name: str, ports: dict[str, str]) -> None:
    wanted = {port: default_of(setting) for port, setting in ports.items()}
    assert {port["name"]: port["containerPort"] for port in container_of(name)["ports"]} == wanted
    policy = files()["NetworkPolicy", name]["spec"]
    opened = {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
    assert opened == set(wanted.values())
    (endpoint,) = files()["PodMonitor", name]["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in wanted
    assert files()["PodMonitor", name]["spec"]["jobLabel"] in files()["Deployment", name]["metadata"]["labels"]


@pytest.mark.parametrize(
    ("name", "hosts", "others"),
    [
        ("gateway", {"redis", "node-1", "sentinel-1"}, {443}),  # the identity provider, by https://
        ("relay", {"redis", "node-1", "sentinel-1", "redpanda", "collector"}, set()),
    ],
)
def test_what_the_services_call_is_let_through(name: str, hosts: set[str], others: set[int]) -> None:
    """At the ports that the documents name."""
    text = "".join((ROOT / file).read_text() for file in ("README.md", ".env.example", "docs/tracing.md"))
    named = [(host, int(port)) for host, port in re.findall(r"\b([a-z]+(?:-\d)?):(\d+)\b", text) if host in hosts]
    assert {host for host, _ in named} == hosts
    opened = {port["port"] for rule in files()["NetworkPolicy", name]["spec"]["egress"] for port in rule["ports"]}
    assert opened == {port for _, port in named} | others


@pytest.mark.parametrize("name", SERVICES)
def test_probes_ask_for_what_there_is(name: str) -> None:
    container = container_of(name)
    probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")}
    assert {kind: probe["path"] for kind, probe in probes.items()} == {
        "startup": "/livez",
        "readiness": "/readyz",
        "liveness": "/livez",
    }
    assert {probe["port"] for probe in probes.values()} == {container["ports"][0]["name"]}


def test_a_pod_is_given_the_time_that_it_takes_to_end() -> None:
    assert pod_of("gateway")["terminationGracePeriodSeconds"] > gateway_end_seconds()
    assert pod_of("relay")["terminationGracePeriodSeconds"] > relay_end_seconds()


def test_a_pod_that_drains_is_out_of_the_endpoints_before_it_takes_no_more_clients() -> None:
    probe = container_of("gateway")["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] < default_of("DRAIN_DELAY_SECONDS")


@pytest.mark.parametrize("name", SERVICES)
def test_pods_may_do_nothing_that_they_do_not_have_to(name: str) -> None:
    pod, container = pod_of(name), container_of(name)
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    user = next(line for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("USER "))
    assert user == f"USER {pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"


@pytest.mark.parametrize("name", SERVICES)
def test_one_at_a_time_may_be_missing(name: str) -> None:
    labels = files()["Deployment", name]["spec"]["template"]["metadata"]["labels"]
    budget = files()["PodDisruptionBudget", name]["spec"]
    assert budget["maxUnavailable"] == 1
    for selector in (
        budget["selector"],
        files()["Deployment", name]["spec"]["selector"],
        files()["NetworkPolicy", name]["spec"]["podSelector"],
        files()["PodMonitor", name]["spec"]["selector"],
    ):
        assert selector["matchLabels"].items() <= labels.items()


def test_the_autoscaler_leaves_room_for_the_clients_of_a_lost_replica() -> None:
    scaler = files()["HorizontalPodAutoscaler", "gateway"]["spec"]
    pods, cpu = scaler["metrics"]
    limit = int(dict(variables())["MAX_CONNECTIONS"])
    replicas = scaler["minReplicas"]
    assert int(pods["pods"]["target"]["averageValue"]) * replicas / (replicas - 1) < limit
    assert cpu["resource"]["name"] in container_of("gateway")["resources"]["requests"]
    assert "replicas" not in files()["Deployment", "gateway"]["spec"], "that is the autoscaler's"
    (adapter,) = documents(f"{FOLDER}/prometheus-adapter.yaml")
    (rule,) = adapter["rules"]["custom"]
    assert rule["seriesQuery"].partition("{")[0] == pods["pods"]["metric"]["name"]


def test_the_ingress_waits_longer_than_pings_let_a_connection_be_silent() -> None:
    annotations = files()["Ingress", "gateway"]["metadata"]["annotations"]
    silence = default_of("PING_INTERVAL_SECONDS") + default_of("PING_TIMEOUT_SECONDS")
    assert int(annotations["nginx.ingress.kubernetes.io/proxy-read-timeout"]) > 2 * silence


def test_the_rules_are_those_of_every_other_prometheus() -> None:
    assert FILE.read_text() == render(RULES.read_text()), "run: python -m scripts.prometheus_rule"
    (rules,) = documents("deploy/alerts.yml")
    assert files()["PrometheusRule", "notification"]["spec"] == rules
