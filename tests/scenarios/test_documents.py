"""What the documents tell people to type works: run here or elsewhere, or marked as needing what is not here."""

import os
import re
import shutil
from collections.abc import Mapping

import pytest
from harness.dead_letters import DeadLetters
from harness.documents import Block, all_blocks, blocks_of
from harness.producer import Record
from harness.stage import Stage
from harness.waiting import PATIENCE, eventually

from demo.ports import free_port
from demo.process import ROOT, Process
from demo.stack import answers_ok

NEEDS = {"Docker", "a cluster", "Redpanda", "systemd"}

ELSEWHERE = {
    "make setup": (".ci/run", "make test"),
    "make test": (".ci/run", "make test"),
    "make check": (".ci/run", "make lint"),
    "make demo": (".ci/run", "make demo"),
    "make soak": (".ci/run", "make soak"),
    ".venv/bin/python -m pytest": ("Makefile", "-m pytest"),
    "SCENARIO_STACK=real .venv/bin/python -m pytest": (".ci/run", "SCENARIO_STACK=real .venv/bin/python -m pytest"),
}
"""What a command begins with, and the file that runs it, by what it says."""

HERE = {
    ".venv/bin/python -m demo.client --user user-123",
    "pip install --require-hashes -r requirements/runtime.txt",
    "export AUTH_MODE=jwt JWT_SECRET=$(openssl rand -hex 32) REDIS_URL=redis://127.0.0.1:6379/0",
    "python -m gateway admin status",
    "python -m relay redrive --dry-run",
    "openssl req -x509",
    "export RELAY_PASSWORD=$(openssl rand -hex 32)",
    "OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318 python -m relay",
}
"""How the blocks begin that the tests below run."""

_STAYS = re.compile(r"python -m (relay|gateway)$|^redis-server |demo\.client |^curl .*/events")


def test_every_command_is_run_or_says_what_it_needs() -> None:
    begins = set()
    for block in all_blocks():
        if block.needs is not None:
            assert block.needs in NEEDS, f"{block}: says it needs {block.needs!r}"
            continue
        if here := [begin for begin in HERE if block.commands[0].startswith(begin)]:
            begins.update(here)
            continue
        for command in block.commands:
            runs = [place for begin, place in ELSEWHERE.items() if command.startswith(begin)]
            assert runs, f"{block.file}: nobody runs {command!r}"
            for file, words in runs:
                assert words in (ROOT / file).read_text(), f"{file} runs no {words!r}"
    assert begins == HERE, "blocks that are gone"


def test_commands_are_joined_and_their_comments_left_out() -> None:
    text = "```sh\n# needs Docker\ndocker run \\\n    image   # why\ncurl http://host/#x\n```\n\n```js\nsocket\n```\n"
    (block,) = blocks_of("x.md", text)
    assert (block.needs, block.commands) == ("Docker", ("docker run image", "curl http://host/#x"))


def the(begin: str) -> Block:
    (block,) = (block for block in all_blocks() if block.needs is None and block.commands[0].startswith(begin))
    return block


def add_shell(
    stage: Stage, block: Block, replaced: Mapping[str, str], env: Mapping[str, str], ports: Mapping[str, int]
) -> Process:
    """The block as somebody would type it, but for addresses; what stays in the background. It runs in
    an empty folder beside what of the checkout the documents speak of."""
    commands = []
    for command in block.commands:
        for what, by in replaced.items():
            command = command.replace(what, by)
        commands.append(f"{command} &" if _STAYS.search(command) else command)
    for missing, by in replaced.items():
        assert any(by in command for command in commands), f"{block} has no {missing!r}"
    script = ["trap 'kill $(jobs -p) 2>/dev/null; wait; exit 0' TERM", *commands, "wait"]
    for name in ("deploy", "requirements", ".venv"):
        if not (link := stage.processes.folder / name).exists():
            link.symlink_to(ROOT / name)
    path = f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    python = {"PATH": path, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    number = sum(process.name.startswith("shell") for process in stage.processes.all)
    return stage.processes.add(
        f"shell-{number}", ["bash", "-euo", "pipefail", "-c", "\n".join(script)], env={**python, **env}, ports=ports
    )


def service_ports() -> dict[str, int]:
    return {name: free_port() for name in ("WS_PORT", "ADMIN_PORT", "RELAY_HTTP_PORT")}


def as_env(ports: Mapping[str, int]) -> dict[str, str]:
    return {name: str(port) for name, port in ports.items()}


async def is_ready(shell: Process, port: str) -> None:
    url = f"http://127.0.0.1:{shell.ports[port]}/readyz"

    async def answers() -> bool:
        shell.check()
        return await answers_ok(url)

    await eventually(answers, f"{url} to be ready")


async def both_are_ready(shell: Process) -> None:
    await is_ready(shell, "WS_PORT")
    await is_ready(shell, "RELAY_HTTP_PORT")


async def test_relay_and_gateway_by_themselves(stage: Stage) -> None:
    ports = service_ports()
    replaced = {
        # Everything is installed, as the lock says; tests/unit/test_installs.py installs it anew.
        "pip install": "python -m pip install --dry-run",
        "redpanda:9092": stage.bootstrap,
        "redis:6379": f"127.0.0.1:{stage.redis.port}",
    }
    shell = add_shell(stage, the("pip install"), replaced, {"REDIS_PREFIX": stage.prefix, **as_env(ports)}, ports)
    await both_are_ready(shell.start())
    await stage.connect(stage.users[0], shell)
    await stage.producer.publish_mixed(stage.users, 20)
    await stage.exact()


async def test_a_demo_is_looked_at_and_sent_to(stage: Stage) -> None:
    relay, (gateway,) = await stage.start_relay_and_replicas(1)
    begins = ".venv/bin/python -m demo.client --user user-123"
    replaced = {
        "demo.client": f"demo.client --url ws://127.0.0.1:{gateway.port}",
        "demo.send": f"demo.send --brokers {stage.bootstrap}",
        "--user user-123": f"--user {stage.users[0]}",
    }
    watching, sending = the(begins).commands
    watch = add_shell(stage, Block("", watching), dict(list(replaced.items())[::2]), {}, {}).start()
    await eventually(lambda: "connected to" in watch.log(), "the client to be connected")
    send = add_shell(stage, Block("", sending), dict(list(replaced.items())[1:]), {}, {}).start()
    assert await send.wait(60) == 0, send.log()
    assert '"user_id"' in send.log()
    await eventually(lambda: "risk_alert" in watch.log(), "the client to show the event")
    assert relay.is_running


async def test_authentication_and_a_token_to_try(stage: Stage) -> None:
    ports = service_ports()
    replaced = {
        "127.0.0.1:6379": f"127.0.0.1:{stage.redis.port}",
        "127.0.0.1:8000": f"127.0.0.1:{ports['WS_PORT']}",
        # A person types it when the replica is there.
        "curl": "curl --silent --no-buffer --retry 60 --retry-delay 1 --retry-connrefused --max-time 90",
    }
    block = the("export AUTH_MODE=jwt")
    shell = add_shell(stage, block, replaced, {"REDIS_PREFIX": stage.prefix, **as_env(ports)}, ports).start()
    await eventually(lambda: "retry:" in shell.log() or shell.check() is not None, "the stream to begin")
    assert "unauthorized" not in shell.log()


async def test_what_operators_do_from_a_shell(stage: Stage) -> None:
    env = {"ADMIN_TOKEN": "a-token-of-operators-that-is-long-enough"}
    gateway = stage.add_gateway(env={"DRAIN_DELAY_SECONDS": "0", "DRAIN_SECONDS": "1", **env})
    await stage.start(gateway)
    client = await stage.connect("user-123", gateway)
    await eventually(lambda: bool(stage.redis_control.presence(stage.prefix, "user-123")), "the client to be seen")
    gateway.expected_to_run = False
    env["ADMIN_PORT"] = str(gateway.ports["admin"])
    shell = add_shell(stage, the("python -m gateway admin"), {}, env, {}).start()
    assert await shell.wait(60 * PATIENCE) == 0, shell.log()
    await eventually(lambda: client.close_code == 1012, lambda: f"the client to be closed: {shell.log()}")
    assert await gateway.wait(60) == 0, "drained"


async def test_traces_of_a_collector_that_is_not_there(stage: Stage) -> None:
    ports = service_ports()
    replaced = {"collector:4318": f"127.0.0.1:{free_port()}"}
    env = {"REDPANDA_BROKERS": stage.bootstrap, "REDIS_URL": f"redis://127.0.0.1:{stage.redis.port}", **as_env(ports)}
    shell = add_shell(stage, the("OTEL_EXPORTER_OTLP_ENDPOINT"), replaced, env, ports).start()
    await is_ready(shell, "RELAY_HTTP_PORT")


async def test_dead_letters_are_put_back(stage: Stage) -> None:
    await stage.older_letters_are_not_ours()
    letters = DeadLetters(stage.bootstrap)
    await stage.start(stage.add_relay(env={"MAX_EVENT_BYTES": "500"}))
    await stage.producer.send([Record("risk-events", b'{"message":"%s"}' % (b"x" * 500), b"key")])
    await letters.wait_for(1)
    letters.close()
    env = {"REDPANDA_BROKERS": stage.bootstrap, "REDIS_PREFIX": stage.prefix}
    shell = add_shell(stage, the("python -m relay redrive"), {}, env, {}).start()
    assert await shell.wait(90) == 0, shell.log()
    assert re.search(r"too_large +1\b", shell.log()), shell.log()


@pytest.mark.skipif(shutil.which("openssl") is None or shutil.which("redis-server") is None, reason="needs both")
async def test_tls_and_users(stage: Stage) -> None:
    make = add_shell(stage, the("openssl req"), {"DNS:redis": "DNS:redis,IP:127.0.0.1"}, {}, {}).start()
    assert await make.wait(60) == 0, make.log()
    ports, redis = service_ports(), free_port()
    env = {"REDPANDA_BROKERS": stage.bootstrap, "AUTH_MODE": "none", **as_env(ports)}
    replaced = {"--tls-port 6379": f"--tls-port {redis}", "redis:6379": f"127.0.0.1:{redis}"}
    shell = add_shell(stage, the("export RELAY_PASSWORD"), replaced, env, ports).start()
    await both_are_ready(shell)
    await stage.connect(stage.users[0], shell)
    await stage.producer.publish_mixed(stage.users, 20)
    await stage.everything_arrived()
    assert "NOPERM" not in shell.log()
