"""demo/process.py and demo/guard.py: children are ended, restarted, told of, and never left behind."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.waiting import eventually

from demo.ports import free_port
from demo.process import ROOT, NotReady, ProcessDied, Processes

SLEEP = [sys.executable, "-S", "-c", "import time; print('up', flush=True); time.sleep(60)"]
# Ends only when it is killed.
DEAF = [
    *(sys.executable, "-S", "-c"),
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
]


def runs(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return bool(state.stdout.strip()) and not state.stdout.startswith("Z")


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    await eventually(lambda: bool(condition()), "it to come to be", seconds=seconds, poll_seconds=0.01)


async def test_leaving_ends_all_and_removes_the_folder() -> None:
    async with Processes() as processes:
        first, second = (processes.add(name, SLEEP).start() for name in ("first", "second"))
        pids = [first.pid, second.pid]
        assert processes.folder.exists()
    assert not any(runs(pid) for pid in pids)
    assert not processes.folder.exists()


async def test_a_process_that_will_not_end_is_killed() -> None:
    async with Processes() as processes:
        process = processes.add("deaf", DEAF).start()
        await until(lambda: "up" in process.log())
        assert await process.terminate(timeout_seconds=0.2) == -signal.SIGKILL
        assert not process.is_running


async def test_a_restart_is_another_process_with_the_same_log() -> None:
    async with Processes() as processes:
        process = processes.add("it", SLEEP).start()
        before = process.pid
        await until(lambda: "up" in process.log())
        await process.restart()
        assert process.pid != before
        assert not runs(before)
        await until(lambda: process.log().count("up") == 2)


async def test_one_that_dies_is_told_with_its_last_words() -> None:
    async def never() -> bool:
        return False

    async with Processes() as processes:
        process = processes.add("it", [sys.executable, "-c", "raise SystemExit('no luck')"], ready=never).start()
        with pytest.raises(ProcessDied, match=r"it ended by itself with exit code 1\n.*it \| no luck"):
            await process.wait_until_ready()
        with pytest.raises(ProcessDied):
            processes.check()


async def test_one_that_was_asked_to_end_is_not_reported() -> None:
    async with Processes() as processes:
        process = processes.add("it", SLEEP).start()
        assert await process.terminate() == -signal.SIGTERM
        processes.check()


async def test_one_that_is_not_ready_in_time_is_told() -> None:
    async def never() -> bool:
        return False

    async with Processes() as processes:
        process = processes.add("it", SLEEP, ready=never).start()
        with pytest.raises(NotReady, match=r"it was not ready within 0\.1 s"):
            await process.wait_until_ready(timeout_seconds=0.1)


async def test_a_program_that_is_not_there_is_told() -> None:
    async def never() -> bool:
        return False

    async with Processes() as processes:
        with pytest.raises(ProcessDied, match="no-such-program cannot be started"):
            await processes.add("it", ["no-such-program"], ready=never).start().wait_until_ready()


PARENT = """
import os, sys, time
from demo.process import Processes
processes = Processes()
pids = [processes.add(name, [sys.executable, "-S", "-c", "import time; time.sleep(60)"]).start().pid for name in "ab"]
print(*pids, processes._guard.pid, processes.folder, flush=True)
if "guard" in sys.argv:
    os.kill(processes._guard.pid, 9)
time.sleep(60)
"""


def killed_parent(*arguments: str) -> tuple[list[int], Path]:
    """Pids and folder of a parent that was killed -9."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        *pids, folder = parent.stdout.readline().split()
        assert all(runs(int(pid)) for pid in pids[:2])
        parent.kill()
    return [int(pid) for pid in pids], Path(folder)


async def test_nothing_outlives_a_parent_that_is_killed() -> None:
    pids, folder = killed_parent()
    await until(lambda: not any(runs(pid) for pid in pids) and not folder.exists())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's death")
async def test_nothing_outlives_a_parent_that_is_killed_with_its_guard() -> None:
    pids, folder = killed_parent("guard")
    await until(lambda: not any(runs(pid) for pid in pids))
    folder.joinpath("a.log").unlink()
    folder.joinpath("b.log").unlink()
    folder.rmdir()


def test_a_preferred_port_is_taken_when_it_is_free() -> None:
    port = free_port()
    assert free_port(port) == port
    with socket.create_server(("127.0.0.1", port)):
        assert free_port(port) != port


def test_a_port_that_another_address_serves_is_not_free() -> None:
    port = free_port()
    with socket.create_server(("", port)):
        assert free_port(port) != port


def test_no_two_processes_are_given_the_same_port_though_nobody_listens_there_yet() -> None:
    ours = {free_port() for _ in range(100)}
    assert len(ours) > 90  # of one block, less what others listen on
    program = "from demo.ports import free_port; print(*(free_port() for _ in range(100)))"
    for _ in range(3):
        told = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
        assert not ours & {int(port) for port in told.stdout.split()}
