"""The text of /metrics."""

import os
import sys
import threading

import pytest
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from shared.exposition import Exposition


@pytest.mark.skipif(sys.platform != "linux", reason="what the system knows of a process is read from /proc")
async def test_it_has_what_the_service_counts_and_what_the_system_knows() -> None:
    registry = CollectorRegistry()
    Counter("notify_test", "A test", registry=registry).inc()
    response = await Exposition(registry).response()
    assert response.media_type == CONTENT_TYPE_LATEST
    families = {
        family.name: [sample.value for sample in family.samples]
        for family in text_string_to_metric_families(bytes(response.body).decode())
    }
    assert families["notify_test"][0] == 1
    assert 0 < families["process_open_fds"][0] < families["process_max_fds"][0]
    assert families["process_resident_memory_bytes"][0] > 1_000_000
    assert families["process_cpu_seconds"][0] > 0
    assert families["process_start_time_seconds"][0] > os.stat("/proc/1").st_ctime - 86_400 * 365


async def test_counts_are_read_in_the_event_loop() -> None:
    """Its parts count without locks."""
    threads: list[threading.Thread] = []
    registry = CollectorRegistry()

    class Counts:
        def collect(self) -> list[object]:
            threads.append(threading.current_thread())
            return []

    registry.register(Counts())  # type: ignore[arg-type]
    threads.clear()
    await Exposition(registry).response()
    assert threads == [threading.current_thread()]
