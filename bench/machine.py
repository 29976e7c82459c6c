"""What the measurements ran on: the machine, and the versions of what was measured. Nothing in it says whose machine
it is, or where."""

import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bench.fanout import CENTRIFUGO
from demo.kafka import KAFKA_LIBS
from demo.process import ROOT
from demo.valkey import valkey_binary

NODE_MODULES = ROOT / ".cache" / "node" / "node_modules"
_PACKAGES = ("uvloop", "hiredis", "websockets", "picows", "FastAPI", "uvicorn")
_NODE_PACKAGES = ("ws", "socket.io")


def describe() -> dict[str, str]:
    """Each fact by its name, in the order in which people read them; those that are not to be had are left out."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    facts = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        "CPU": _cpu(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.1f} GiB",
        "kernel": f"{platform.system()} {_found(r'^([0-9.]+)', platform.release())}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        **{name: version(name) for name in _PACKAGES},
        "Valkey": _found(r"v=(\S+)", _output([valkey_binary(), "--version"])),
        "Node": _output(["node", "--version"]).removeprefix("v"),
        **{name: _node_package(name) for name in _NODE_PACKAGES},
        "Centrifugo": _centrifugo(),
        "Apache Kafka": _kafka(),
    }
    return {name: fact for name, fact in facts.items() if fact}


def _output(command: Sequence[str]) -> str:
    """What a command says; nothing when it is not there or fails."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _found(pattern: str, text: str) -> str:
    """The pattern's group; nothing when it is not in the text."""
    match = re.search(pattern, text)
    return match[1] if match else ""


def _cpu() -> str:
    file = Path("/proc/cpuinfo")
    text = file.read_text() if file.exists() else ""
    return _found(r"(?m)^model name\s*: (.+)$", text) or platform.machine()


def _node_package(name: str) -> str:
    file = NODE_MODULES / name / "package.json"
    return str(json.loads(file.read_text())["version"]) if file.exists() else ""


def _centrifugo() -> str:
    file = CENTRIFUGO.parent / "version"
    return file.read_text().strip().removeprefix("v") if file.exists() else ""


def _kafka() -> str:
    names = [jar.name for jar in KAFKA_LIBS.glob("kafka_*.jar")]
    return _found(r"^kafka_[\d.]+-(.+)\.jar", "\n".join(names))


def _commit() -> str:
    """With a `+` when files differ from it, but for the documents, which say what was measured and do not change it."""
    commit = _output(["git", "rev-parse", "--short", "HEAD"])
    changed = _output(["git", "--no-optional-locks", "status", "--porcelain", "--", ".", ":!docs"])
    return commit + "+" * bool(commit and changed)
