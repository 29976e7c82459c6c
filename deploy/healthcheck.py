"""For the container's HEALTHCHECK: exit code 0 when this container's service answers 200.

python healthcheck.py /livez|/readyz
"""

import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

_TIMEOUT_SECONDS = 3


def port(command_line: bytes, env: dict[str, str]) -> str:
    """The port of the service that process 1 runs (or starts, when it is a small init)."""
    if b"relay" in command_line.split(b"\0"):
        return env.get("RELAY_HTTP_PORT") or "9100"
    return env.get("WS_PORT") or "8000"


def main(path: str) -> int:
    url = f"http://127.0.0.1:{port(Path('/proc/1/cmdline').read_bytes(), dict(os.environ))}{path}"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response:
            return 0 if response.status == 200 else 1
    except urllib.error.HTTPError as error:
        sys.stderr.write(f"{url}: {error.code} {error.read(300)!r}\n")
    except OSError as error:
        sys.stderr.write(f"{url}: {error}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
