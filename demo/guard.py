"""Nothing that the demo or a test starts outlives it, not even when it is killed -9.

Two nets, each enough by itself most of the time:

    guard.py watch <folder>            reads `+<pid>` and `-<pid>` lines; when its input ends, which is when
                                       its parent closed it or died, it kills what is left and removes the folder
    guard.py run <parent> <command...> becomes the command, which Linux kills when its parent dies

The first works everywhere and cleans up; the second covers the moment before a pid is announced.
Only the standard library, and no package around it: it starts in 20 ms and needs no environment.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import sys
import time

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_REMOVE_SECONDS = 5.0


def watch(folder: str) -> None:
    """Follow the pids announced on standard input; at its end kill their process groups, then
    remove `folder`. Deaf to the signals of a terminal, since it has to come last."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    running: set[int] = set()
    for line in sys.stdin:
        pid = int(line[1:])
        if line[0] == "+":
            running.add(pid)
        else:
            running.discard(pid)
    for pid in running:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
    # A process that was just killed may still be writing its last file.
    deadline = time.monotonic() + _REMOVE_SECONDS
    while os.path.exists(folder) and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)
        if os.path.exists(folder):
            time.sleep(0.01)


def run(parent: int, command: list[str]) -> None:
    """Become `command`. On Linux it gets SIGKILL when the thread that started it ends, so start it
    from the main thread."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before we could ask to be told
            sys.exit(1)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]} cannot be started: {error.strerror}")


if __name__ == "__main__":
    if sys.argv[1] == "watch":
        watch(sys.argv[2])
    else:
        run(int(sys.argv[2]), sys.argv[3:])
