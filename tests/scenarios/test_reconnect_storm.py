"""All clients come at once: those that are there already do not notice. `--log-cli-level=INFO` for the figures."""

import contextlib
import logging
import resource
from collections.abc import AsyncIterator

import pytest
from harness.latency import ANY_NUMBER, Feed, assert_undisturbed, needs_cc
from harness.stage import Stage

from bench.tools import LoadClient

log = logging.getLogger(__name__)

CROWD = 5_000
AT_ONCE = 360
"""Of them on their way in at each moment. libuv accepts all that wait in one go, at about 25
microseconds each: 4,000 are one pause of 100 ms. Twice as many are below door.REFUSALS_RESERVE: those that
were refused are still there when the next come."""

needs_files = pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_NOFILE)[1] < CROWD + 1_000, reason="needs a limit of open files above 6,000"
)


@needs_cc
@needs_files
@pytest.mark.alone
@pytest.mark.parametrize("env", [{"MAX_CONNECTIONS": "6000"}, {"MAX_CONNECTIONS": "2000"}, {"MAX_HANDSHAKES": "20"}])
async def test_5000_at_once_are_let_in_or_told_when_to_come_again_and_nobody_else_notices(
    stage: Stage, env: dict[str, str]
) -> None:
    relay, gateway = stage.add_relay(), stage.add_gateway(env={**ANY_NUMBER, "MAX_CONNECTIONS": "6000", **env})
    await stage.start(relay, gateway)
    await stage.crowd(stage.users, [gateway])
    refused = 0

    @contextlib.asynccontextmanager
    async def storm() -> AsyncIterator[None]:
        nonlocal refused
        path = f"/ws?user_id={stage.users[0]}/%d"
        async with LoadClient(gateway.port, path, CROWD, 3_600, at_once=AT_ONCE, storm=True) as crowd:
            yield
            received = await crowd.stop()
        waits = received.retry_after
        log.info("%s in at %.0f/s, refused for seconds: %s", crowd.opened, crowd.connects_per_second, waits)
        refused = sum(waits)
        assert crowd.opened + refused == CROWD, "each was let in or refused with Retry-After"
        assert refused < 100 or all(waits[1:4]), "they are not to come again all at once"

    await assert_undisturbed(stage, gateway, lambda: Feed(stage, user=stage.users[0]), storm)
    assert bool(refused) is (env != {"MAX_CONNECTIONS": "6000"})
    await stage.exact()
