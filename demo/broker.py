"""A Kafka-protocol broker in a process of its own: librdkafka's mock cluster.

    python -m demo.broker --port-file <file>

It keeps everything in memory (5 MiB a partition, 4 partitions a topic), picks its port itself, and
is gone with its process. The file gets `host:port` once the topics exist.
"""

import argparse
import os
import signal
from pathlib import Path

from confluent_kafka import Producer

from demo.process import Process, Processes
from relay.routes import DEAD_LETTER_TOPIC
from shared.message import TYPE_OF_TOPIC

_START_SECONDS = 30.0


def add_broker(processes: Processes, *, name: str = "broker") -> Process:
    """A broker, to be started. Its address is `bootstrap(broker)` once it is ready. A restart makes
    a new, empty broker at another address."""
    file = _port_file(processes.folder, name)

    async def ready() -> bool:
        return file.exists()

    return processes.add_module("demo.broker", "--port-file", str(file), name=name, ready=ready)


def bootstrap(broker: Process) -> str:
    """Its address, `host:port`, for REDPANDA_BROKERS. Only once it is ready."""
    return _port_file(broker.log_path.parent, broker.name).read_text()


def _port_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.address"


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m demo.broker", description=__doc__)
    parser.add_argument("--port-file", type=Path, required=True, help="gets host:port once the topics exist")
    file: Path = parser.parse_args().port_file
    file.unlink(missing_ok=True)
    ends = (signal.SIGTERM, signal.SIGINT)
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)

    # The cluster lives in this producer, which sends nothing itself.
    cluster = Producer({"test.mock.num.brokers": 1})
    address = ""
    for topic in (*TYPE_OF_TOPIC, DEAD_LETTER_TOPIC):
        metadata = cluster.list_topics(topic, timeout=_START_SECONDS)  # asking for a topic makes it
        (broker,) = metadata.brokers.values()
        address = f"{broker.host}:{broker.port}"
    new = file.with_suffix(".new")
    new.write_text(address)
    os.replace(new, file)
    print(f"serving {', '.join((*TYPE_OF_TOPIC, DEAD_LETTER_TOPIC))} on {address}", flush=True)
    signal.sigwait(ends)


if __name__ == "__main__":
    main()
