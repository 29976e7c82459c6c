"""The text of /metrics."""

import os
import sys
import threading
import time
from pathlib import Path

import pytest
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from shared.exposition import Exposition


def seconds_since_start() -> float:
    """How long this process has been there, as the system counts: both since it was started (proc(5))."""
    after_boot = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - after_boot


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
    ago = time.time() - families["process_start_time_seconds"][0]
    assert ago == pytest.approx(seconds_since_start(), abs=5)


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
