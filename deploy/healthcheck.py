"""For the container's HEALTHCHECK: exit code 0 when this container's service answers 200.

python healthcheck.py /livez|/readyz
"""

import os
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path

_TIMEOUT_SECONDS = 3


def address(command_line: bytes, env: dict[str, str]) -> str:
    """Of the service that process 1 runs (or starts, when it is a small init)."""
    if b"relay" in command_line.split(b"\0"):
        return f"http://127.0.0.1:{env.get('RELAY_HTTP_PORT') or '9100'}"
    scheme = "https" if env.get("TLS_CERT_FILE") else "http"
    return f"{scheme}://127.0.0.1:{env.get('WS_PORT') or '8000'}"


def main(path: str) -> int:
    url = address(Path("/proc/1/cmdline").read_bytes(), dict(os.environ)) + path
    # The certificate is for the name that clients use, and nobody stands between this container and itself.
    tls = ssl._create_unverified_context()
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS, context=tls) as response:
            return 0 if response.status == 200 else 1
    except urllib.error.HTTPError as error:
        sys.stderr.write(f"{url}: {error.code} {error.read(300)!r}\n")
    except OSError as error:
        sys.stderr.write(f"{url}: {error}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
