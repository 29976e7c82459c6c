"""A real Prometheus asks a real relay and real replicas, with the rules and the queries that ship."""

from pathlib import Path

import yaml
from harness.prometheus import add_prometheus, ask, needs_prometheus, promtool
from harness.queries import OF_PROCESS, as_sent, dashboard_queries
from harness.stage import Stage
from harness.waiting import eventually
from prometheus_client.parser import text_string_to_metric_families

from demo.process import ROOT, Process
from demo.stack import http_url
from scripts.metrics_table import RULES, Documented, of_gateway, of_relay
from scripts.promql import parse_rules, selectors

CONFIG = ROOT / "deploy" / "prometheus.yml"

LOOK_SECONDS = 1

COME_LATER = {
    "notify_gateway_handshakes_total",
    "notify_gateway_refusals_total",
    "notify_gateway_conflated_total",
}
"""Those that have no series before their first."""


def check_text(text: str, documented: list[Documented], missing: set[str]) -> None:
    """All that is documented is there with its labels, and nothing else of ours is."""
    samples = [
        sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    ]
    series = {sample.name: set(sample.labels) - {"le"} for sample in samples}
    wanted = {name: set(one.labels) for one in documented for name in one.series} | {name: set() for name in OF_PROCESS}
    assert {name: labels for name, labels in wanted.items() if name not in missing or name in series} == series


def configuration(folder: Path, relay: Process, gateways: list[Process]) -> Path:
    """deploy/prometheus.yml, with addresses instead of names to look up, and more looks."""
    config = yaml.safe_load(CONFIG.read_text())
    config["global"] = {"scrape_interval": f"{LOOK_SECONDS}s", "evaluation_interval": f"{LOOK_SECONDS}s"}
    config["rule_files"] = [str(CONFIG.parent / file) for file in config["rule_files"]]
    urls = {"relay": [http_url(relay, "")], "gateway": [http_url(gateway, "", "admin") for gateway in gateways]}
    for job in config["scrape_configs"]:
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": [url.removeprefix("http://") for url in urls.pop(job["job_name"])]}]
    assert not urls
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    return file


@needs_prometheus
async def test_every_query_that_ships_is_answered(stage: Stage, tmp_path: Path) -> None:
    relay, gateways = await stage.start_relay_and_replicas()
    config = configuration(tmp_path, relay, gateways)
    checked = promtool("check", "config", config)
    assert checked.returncode == 0, checked.stdout
    prometheus = add_prometheus(stage.processes, config)
    await stage.start(prometheus)

    async def value(query: str) -> float:
        found = (await ask(prometheus, "query", query=query))["result"]
        return float(found[0]["value"][1]) if found else float("nan")

    async def all_are_up() -> bool:
        return await value("sum(up)") == 3

    await eventually(all_are_up, "all processes to be found")
    await stage.crowd(stage.users, gateways)
    await stage.connect_v1(stage.users[0], gateways[0], snapshot="1")
    async with stage.load(stage.users) as load:
        await load.more(400)

        async def rates_are_there() -> bool:
            return await value("sum(rate(notify_gateway_deliveries_total[10s]))") > 0

        await eventually(rates_are_there, "two looks at deliveries")
        for query in dashboard_queries():
            may_be_empty = "> 0" in query or COME_LATER & {selector.metric for selector in selectors(query)}

            async def is_answered(query: str = as_sent(query, 10), may_be_empty: bool = bool(may_be_empty)) -> bool:
                found = await ask(prometheus, "query", query=query)
                return bool(found["result"]) or may_be_empty

            await eventually(is_answered, f"something to come of {query}")
        true = [
            "notification:redis_up:max == 1",
            "notification:redpanda_up:max == 1",
            "count(notify_build_info) == 3",
            "sum(notify_gateway_hears_relay) == 2",
            'sum(notify_relay_state{state="ready"}) == 1',
            'sum(notify_gateway_state{state="ready"}) == 2',
            "sum(notify_relay_redis_round_trip_seconds_count) > 0",
            'notify_relay_redpanda_round_trip_seconds_count{request="commit"} > 0',
            'notify_relay_redpanda_round_trip_seconds_count{request="ends"} > 0',
            "min(notify_gateway_redis_round_trip_seconds_count) > 0",
            "min(notify_gateway_loop_lag_seconds_count) > 0",
            "min(notify_relay_loop_lag_seconds_count) > 0",
            "min(notify_gateway_latency_seconds_count) > 0",
            "min(notify_gateway_delivered_bytes_total / notify_gateway_deliveries_total) > 50",
        ]
        for query in true:

            async def is_true(query: str = query) -> bool:
                return bool((await ask(prometheus, "query", query=query))["result"])

            await eventually(is_true, query)
    await stage.exact()

    async def rules_were_asked() -> bool:
        groups = (await ask(prometheus, "rules"))["groups"]
        return all(rule["health"] != "unknown" for group in groups for rule in group["rules"])

    await eventually(rules_were_asked, "the rules to be evaluated")
    asked = [rule for group in (await ask(prometheus, "rules"))["groups"] for rule in group["rules"]]
    assert sorted(rule["name"] for rule in asked) == sorted(rule.name for rule in parse_rules(RULES.read_text()))
    assert [rule for rule in asked if rule["health"] != "ok"] == []

    check_text(await stage.metrics(relay), of_relay(), set())
    for gateway in gateways:
        check_text(await stage.metrics(gateway), of_gateway(), COME_LATER)
    connections = [await stage.metric(gateway, "connections") for gateway in gateways]
    assert sum(connections) == len(stage.clients)
