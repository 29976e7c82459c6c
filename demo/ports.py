"""Ports for servers on this machine."""

import random
import socket


def free_port(*preferred: int) -> int:
    """The first of `preferred` that nobody on this machine listens on, else any free port.

    Taken from below the ports that the system gives to outgoing connections (Linux 32768, macOS
    49152): from among those, a connection could take the port before its server does.
    """
    for port in (*preferred, *random.sample(range(20_000, 32_000), 200)):
        if _is_free(port):
            return port
    raise OSError("no free port among 200 tried between 20000 and 32000")


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
