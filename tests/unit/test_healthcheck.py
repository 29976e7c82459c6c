"""deploy/healthcheck.py: which service this container runs, and whether it is well."""

import asyncio
import importlib.util
from types import ModuleType

import pytest

from demo.process import ROOT


@pytest.fixture
def healthcheck() -> ModuleType:
    spec = importlib.util.spec_from_file_location("healthcheck", ROOT / "deploy" / "healthcheck.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("command_line", "env", "address"),
    [
        (b"python\0-m\0gateway\0", {}, "http://127.0.0.1:8000"),
        (b"python\0-m\0gateway\0", {"WS_PORT": "81", "RELAY_HTTP_PORT": "82"}, "http://127.0.0.1:81"),
        (b"python\0-m\0gateway\0", {"TLS_CERT_FILE": "/c.pem"}, "https://127.0.0.1:8000"),
        (b"/sbin/docker-init\0--\0python\0-m\0relay\0", {}, "http://127.0.0.1:9100"),
        (b"python\0-m\0relay\0", {"WS_PORT": "81", "RELAY_HTTP_PORT": "82"}, "http://127.0.0.1:82"),
        (b"python\0-m\0relay\0", {"TLS_CERT_FILE": "/c.pem"}, "http://127.0.0.1:9100"),
        (b"/sbin/init\0", {"WS_PORT": "", "TLS_CERT_FILE": ""}, "http://127.0.0.1:8000"),
    ],
)
def test_it_asks_the_service_of_its_container(
    healthcheck: ModuleType, command_line: bytes, env: dict[str, str], address: str
) -> None:
    assert healthcheck.address(command_line, env) == address


@pytest.mark.skipif(not (ROOT / "/proc/1/cmdline").exists(), reason="only where there is /proc, as in containers")
@pytest.mark.parametrize(("status", "code"), [("200 OK", 0), ("503 Service Unavailable", 1)])
async def test_its_exit_code_is_the_answer(
    healthcheck: ModuleType, monkeypatch: pytest.MonkeyPatch, status: str, code: int
) -> None:
    paths = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        paths.append((await reader.readuntil(b"\r\n\r\n")).split()[1])
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = str(server.sockets[0].getsockname()[1])
        for name in ("WS_PORT", "RELAY_HTTP_PORT"):
            monkeypatch.setenv(name, port)
        assert await asyncio.to_thread(healthcheck.main, "/readyz") == code
    assert paths == [b"/readyz"]
    assert await asyncio.to_thread(healthcheck.main, "/readyz") == 1, "nobody listens any more"
