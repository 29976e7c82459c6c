"""Whatever installs something takes only what is pinned by its hash."""

import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from scripts.setup import _install

ROOT = Path(__file__).parents[2]
INSTALLING = [
    "Dockerfile",
    "Makefile",
    "README.md",
    ".ci/run",
    "scripts/setup.sh",
    "scripts/ci/get-kafka",
    "scripts/ci/get-node",
]


def commands(text: str) -> list[str]:
    """A text's lines, those that go on after a backslash as one."""
    return re.sub(r"\\\n", " ", text).splitlines()


@pytest.mark.parametrize("file", INSTALLING)
def test_pip_and_npm_are_called_only_with_hashes(file: str) -> None:
    for command in commands((ROOT / file).read_text()):
        if re.search(r"\bpip3?\b.* install\b", command):
            assert "--require-hashes" in command
        assert not re.search(r"\bnpm (i|install|add|exec)\b|\bnpx\b", command), "npm ci is what looks at the lock"


def test_the_image_is_installed_from_wheels_with_hashes() -> None:
    (pip,) = (command for command in commands((ROOT / "Dockerfile").read_text()) if "pip " in command)
    assert {"--require-hashes", "--no-deps", "--only-binary"} <= set(pip.split())


@pytest.mark.parametrize("option", ["--require-hashes", "--no-deps"])
def test_setup_installs_with_hashes(option: str, tmp_path: Path) -> None:
    # SetupFailed is raised when the installer does not see the option.
    installer = [sys.executable, "-c", f"import sys; sys.exit({option!r} not in sys.argv)"]
    _install(installer, tmp_path / "requirements.txt", 0)


def test_the_lock_of_npm_has_hashes_and_no_addresses() -> None:
    text = (ROOT / "scripts/ci/node/package-lock.json").read_text()
    packages = json.loads(text)["packages"]
    assert (
        json.loads((ROOT / "scripts/ci/node/package.json").read_text())["dependencies"]
        == packages.pop("")["dependencies"]
    )
    assert all(package["integrity"].startswith("sha512-") for package in packages.values())
    assert not any("resolved" in package for package in packages.values())


def test_the_jars_of_kafka_have_hashes_and_are_of_the_version_that_is_asked_for() -> None:
    lines = (ROOT / "scripts/ci/kafka/sha256sums").read_text().splitlines()
    assert all(re.fullmatch(r"[0-9a-f]{64}  \S+\.jar", line) for line in lines)
    version = ElementTree.parse(ROOT / "scripts/ci/kafka/pom.xml").findtext(".//{*}dependency/{*}version")
    assert f"kafka_2.13-{version}.jar" in {line.split()[1] for line in lines}
