"""Fixtures of all tests. Scenario tests get a `stage`: see tests/harness/stage.py."""

import asyncio
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx
from harness.servers import chosen_kind, start_apache_kafka
from harness.stage import Stage

from demo.process import Process, Processes

_SCENARIOS = Path(__file__).parent / "scenarios"
_CLIENT_SIDE = frozenset(
    f"test_{name}"
    for name in (
        "attacks", "bad_handshakes", "bad_input_v1", "browser", "compressed", "conflated", "console", "demo",
        "drain_resumes", "event_streams", "filter", "operators", "reconnect_storm", "refused",
        "silent_clients", "slow_client", "tls_for_clients", "tokens", "too_many_connections", "wrong_settings",
    )
)  # fmt: skip
"""Scenarios about what a replica's clients do and see: which broker and Redis are behind it makes no difference."""

_LOG_LINES = 120
_LOGS = pytest.StashKey[dict[str, str]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _SCENARIOS in item.path.parents:
            item.add_marker("scenario")
            if item.path.stem in _CLIENT_SIDE:
                item.add_marker("client_side")


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    """A blocking call of our own code within an event loop is an error. Scenarios run it in processes."""
    if request.node.get_closest_marker("scenario"):
        yield
        return
    with blockbuster_ctx(["gateway", "relay", "shared"]) as blocking:
        # The Lua scripts, a few kilobytes, once in the life of a process.
        blocking.functions["io.BufferedReader.read"].can_block_in("relay/publisher.py", "__init__")
        yield


@pytest.fixture(scope="session")
def apache_kafka() -> Iterator[Process | None]:
    """One broker for all tests of a worker when SCENARIO_STACK=real, else None."""
    if chosen_kind() == "embedded":
        yield None
        return
    processes = Processes()
    try:
        kafka = asyncio.run(start_apache_kafka(processes))
        yield kafka
        asyncio.run(kafka.terminate())
    finally:
        processes.close()


@pytest.fixture
async def own_broker(request: pytest.FixtureRequest) -> AsyncIterator[Process]:
    """An Apache Kafka that this test may do anything to; use it with `own_broker_stage`. The parameter
    `secured` makes it one with users and ACLs behind TLS, too."""
    if chosen_kind() == "embedded":
        pytest.skip("needs Apache Kafka: SCENARIO_STACK=real")
    processes = Processes()
    try:
        kafka = await start_apache_kafka(processes, secured=getattr(request, "param", None) == "secured")
        yield kafka
        await kafka.terminate()
    finally:
        processes.close()


@pytest.fixture
async def own_broker_stage(request: pytest.FixtureRequest, own_broker: Process) -> AsyncIterator[Stage]:
    """A scenario's own system, its broker included."""
    async for stage in _stage(request, own_broker):
        yield stage


@pytest.fixture
async def stage(request: pytest.FixtureRequest, apache_kafka: Process | None) -> AsyncIterator[Stage]:
    """A scenario's own system; it fails the test when a process printed a traceback."""
    async for stage in _stage(request, apache_kafka):
        yield stage


async def _stage(request: pytest.FixtureRequest, apache_kafka: Process | None) -> AsyncIterator[Stage]:
    stage = await Stage.open(chosen_kind(), apache_kafka)
    try:
        yield stage
    finally:
        request.node.stash[_LOGS] = stage.logs()
        logs = await stage.aclose()
        request.node.stash[_LOGS] = logs
    for name, log in logs.items():
        if "Traceback" in log:
            start = log.index("Traceback")
            pytest.fail(f"{name} printed a traceback:\n{log[max(0, start - 500) : start + 5000]}", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the end of every process's log under a failure."""
    report = yield
    if report.failed:
        arguments = getattr(item, "funcargs", {})
        stage = arguments.get("stage") or arguments.get("own_broker_stage")
        logs = item.stash.get(_LOGS, None) or (stage.logs() if isinstance(stage, Stage) else {})
        for name, log in logs.items():
            report.sections.append((f"log of {name}", "\n".join(log.splitlines()[-_LOG_LINES:])))
    return report
