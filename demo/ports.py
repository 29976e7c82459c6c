"""Ports for servers on this machine."""

import fcntl
import functools
import itertools
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

FIRST: Final = 20_000
LAST: Final = 32_000
"""Below the ports that the system gives to outgoing connections (Linux 32768, macOS 49152): from
among those, a connection could take the port before its server does."""

BLOCK: Final = 100
"""Ports of one process."""


def free_port(*preferred: int) -> int:
    """The first of `preferred` that nobody on this machine listens on, else any free port.

    It may be some time until its server listens, or listens again after it was killed: no other
    process is given it by this function meanwhile, and this one not before 99 others.
    """
    for port in itertools.chain(preferred, itertools.islice(_own_ports(), BLOCK)):
        if _is_free(port):
            return port
    raise OSError(f"no free port among {BLOCK} tried between {FIRST} and {LAST}")


@functools.cache
def _own_ports() -> Iterator[int]:
    """The ports of a block that is this process's own, over and over. The lock goes with the process."""
    folder = Path(tempfile.gettempdir()) / f"notify-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for block in random.sample(range(FIRST, LAST, BLOCK), (LAST - FIRST) // BLOCK):
        descriptor = os.open(folder / str(block), os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
        else:
            return itertools.cycle(range(block, block + BLOCK))
    raise OSError(f"all ports between {FIRST} and {LAST} are other processes': see the locks in {folder}")


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    # macOS lets a second one bind beside a server that listens on all addresses.
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) != 0
