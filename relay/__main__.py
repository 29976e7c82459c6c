"""`python -m relay`: events of Redpanda to Redis. Settings come from the environment.

Exit codes: 0 after SIGTERM or SIGINT, 1 when it cannot go on, 2 for a wrong setting.
`python -m relay redrive`: dead letters back to their topics (relay/redrive_command.py).
"""

import argparse
import asyncio
import contextlib
import signal
import sys
import time
from typing import TYPE_CHECKING, Final

from relay import redrive_command
from relay.consumer import Consumer
from relay.dead_letters import DeadLetters
from relay.log_filter import SayItOnce, SayWhatToDo
from relay.publisher import Publisher
from relay.relay import Relay
from relay.report import relay_status
from relay.settings import EventSettings, HistorySettings, KafkaSettings, RelaySettings, TracingSettings
from relay.status import status_app
from shared.errors import RedisError, RelayStopped, SettingsError
from shared.exposition import Exposition
from shared.links import Links
from shared.logging import configure_logging, get_logger
from shared.loop_lag import watch_loop_lag
from shared.metrics import RelayMetrics
from shared.runner import program, run
from shared.server import http_server
from shared.settings import RedisSettings, ServiceSettings, load
from shared.statuses import Statuses, process_name
from shared.version import VERSION

if TYPE_CHECKING:
    from relay.tracing import Tracing

LEAVE_SECONDS: Final = 1.0


def main() -> None:
    """Run until told to end; leaves with an exit code."""
    options = _parser().parse_args()
    try:
        service = load(ServiceSettings)
        redis = load(RedisSettings)
        kafka = load(KafkaSettings)
        events = load(EventSettings)
        history = load(HistorySettings)
        settings = load(RelaySettings)
        name = process_name()
        tracing = None if options.command else _tracing(load(TracingSettings), service, kafka, name)
    except SettingsError as error:
        print(f"relay: {error}", file=sys.stderr)  # noqa: T201 - one line, before there are logs
        sys.exit(2)
    configure_logging(
        level=service.log_level,
        format_=service.log_format,
        service=service.service_name,
        user_ids=service.log_user_ids,
        filters=[SayItOnce("aiokafka"), SayWhatToDo("aiokafka")],
    )
    if options.command == "redrive":
        sys.exit(redrive_command.redrive(kafka, options))
    metrics = RelayMetrics()
    try:
        # asyncio's own loop: uvloop's transports raise RuntimeError on a write after the connection was
        # lost, which ends aiokafka's fetching for good when Redpanda's link is cut at that moment.
        serving = _serve(service, redis, kafka, events, history, settings, metrics, tracing, name)
        run(serving, asyncio.new_event_loop)
    except (RelayStopped, OSError) as error:
        get_logger(__name__).error("relay_stopped", error=str(error))
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("relay"),
        description="Without a command: relay events from Redpanda to Redis until SIGTERM. "
        "Settings are environment variables; .env.example has each with its default.",
    )
    parser.add_argument("--version", action="version", version=f"bloasis-notification {VERSION}")
    commands = parser.add_subparsers(dest="command", title="commands", metavar="")
    redrive_command.add_options(
        commands.add_parser(
            "redrive",
            help=redrive_command.SUMMARY,
            description=redrive_command.DESCRIPTION,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    return parser


def _tracing(settings: TracingSettings, service: ServiceSettings, kafka: KafkaSettings, name: str) -> "Tracing | None":
    """None where tracing is off; nothing is imported for it then. Raises SettingsError."""
    if settings.otel_exporter_otlp_endpoint is None:
        return None
    try:
        from relay.tracing import open_tracing
    except ImportError as error:
        raise SettingsError(
            f"OTEL_EXPORTER_OTLP_ENDPOINT is set, and OpenTelemetry is not installed ({error}): "
            "pip install 'bloasis-notification[tracing]'"
        ) from None
    try:
        return open_tracing(settings, service=service.service_name, instance=name, group_id=kafka.redpanda_group_id)
    except ValueError as error:
        raise SettingsError(f"a variable of OpenTelemetry (OTEL_...) is wrong: {error}") from None


async def _serve(
    service: ServiceSettings,
    redis: RedisSettings,
    kafka: KafkaSettings,
    events: EventSettings,
    history: HistorySettings,
    settings: RelaySettings,
    metrics: RelayMetrics,
    tracing: "Tracing | None",
    name: str,
) -> None:
    """Relay and answer HTTP until a signal comes, or one of the two ends."""
    log = get_logger(__name__)
    relay = Relay(
        consumer=Consumer(kafka, metrics),
        publisher=Publisher(redis, history, metrics),
        dead_letters=DeadLetters(kafka),
        kafka=kafka,
        events=events,
        history=history,
        keys=redis.keys,
        metrics=metrics,
        stop_seconds=settings.relay_stop_seconds,
        tracing=tracing,
    )
    app = status_app(relay, Exposition(metrics.registry), service.service_name)
    server = http_server(app, settings.relay_http_host, settings.relay_http_port)
    started_ms = time.time_ns() // 1_000_000
    links = Links(redis, f"{service.service_name}-relay-status")
    statuses = Statuses(redis, links)
    told_to_end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told_to_end.set)
    log.info("relay_starting", brokers=list(kafka.redpanda_brokers), redis=str(redis.deployment))
    relaying = asyncio.create_task(relay.run())
    serving = asyncio.create_task(server.run_until_cancelled())
    waiting = asyncio.create_task(told_to_end.wait())
    telling = asyncio.create_task(statuses.run(name, lambda: relay_status(relay, metrics, started_ms)))
    watching = asyncio.create_task(watch_loop_lag(metrics.loop_lag_seconds.observe))
    tasks = {relaying, serving, waiting, telling, watching}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()  # raises what ended it
    finally:
        log.info("relay_ending")
        for task in tasks:
            task.cancel()
        # The relay bounds its own end step by step; this is for what nobody thought of.
        await asyncio.wait(tasks, timeout=4 * settings.relay_stop_seconds)
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError, asyncio.InvalidStateError):
                task.exception()
        with contextlib.suppress(RedisError, TimeoutError):  # then it is seen to be gone a minute later
            async with asyncio.timeout(LEAVE_SECONDS):
                await statuses.leave(name)
        links.close()
        if tracing is not None:
            await tracing.close()


if __name__ == "__main__":
    main()
