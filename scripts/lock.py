"""The locks: requirements/runtime.txt, demo.txt, dev.txt.

python -m scripts.lock             make them anew from pyproject.toml (needs uv and a package index)
python -m scripts.lock --upgrade   ... with the newest versions that pyproject.toml allows
python -m scripts.lock --check     say whether they fit pyproject.toml (needs neither)
"""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "requirements"
# Each lock holds the ones before it, so that one environment serves all.
EXTRAS: dict[str, tuple[str, ...]] = {"runtime": (), "demo": ("demo",), "dev": ("demo", "dev")}
_PIN = re.compile(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!+_-]+)( ; .+)?")
_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def entries(lock: str) -> list[list[str]]:
    """A lock file's text as requirements, each with the options that follow it, read as pip reads it."""
    # A line of comment ends with it; others that end in a backslash go on, and a comment hides the rest.
    lock = re.sub(r"(?m)^[ \t]*#.*", "", lock).replace("\\\n", " ")
    lines = (re.sub(r"\s#.*", "", line) for line in lock.splitlines())
    return [re.split(r" (?=-)", " ".join(line.split())) for line in lines if line.strip()]


def pins(lock: str) -> dict[str, str]:
    """The version of each package in a lock file's text, by canonical name."""
    found = (_PIN.fullmatch(requirement) for requirement, *_ in entries(lock))
    return {canonicalize_name(match[1]): match[2] for match in found if match}


def unpinned(lock: str) -> list[str]:
    """What in a lock file's text is not `name==version` with sha256 hashes and nothing else, one line each."""
    found = []
    for requirement, *options in entries(lock):
        if not _PIN.fullmatch(requirement):
            found.append(f"{requirement} is not name==version")
        elif not options:
            found.append(f"{requirement} has no hash")
        found += [f"{requirement} has {option}" for option in options if not _HASH.fullmatch(option)]
    return found


def problems(pyproject: str, locks: dict[str, str]) -> list[str]:
    """What is wrong with the locks (text by name), one line each; empty when all is well."""
    project = tomllib.loads(pyproject)["project"]
    found = []
    for name, lock in locks.items():
        pinned = pins(lock)
        wanted = [*project["dependencies"]]
        for extra in EXTRAS[name]:
            wanted += project["optional-dependencies"][extra]
        for requirement in map(Requirement, wanted):
            version = pinned.get(canonicalize_name(requirement.name))
            if canonicalize_name(requirement.name) == canonicalize_name(project["name"]):
                continue
            if version is None:
                found.append(f"{name}: {requirement.name} is not in it")
            elif not requirement.specifier.contains(version, prereleases=True):
                found.append(f"{name}: {requirement.name} is {version}, pyproject.toml wants {requirement.specifier}")
        found += [f"{name}: {line}" for line in unpinned(lock)]
        if "://" in lock:
            found.append(f"{name}: names an address")
        if name != "runtime":
            smaller = pins(locks["runtime" if name == "demo" else "demo"])
            for package, version in smaller.items():
                if pinned.get(package) != version:
                    found.append(f"{name}: {package} is {pinned.get(package)}, in the smaller lock {version}")
    return found


def make(upgrade: bool) -> None:
    """Write the locks. Raises SystemExit when uv is missing or fails."""
    uv = shutil.which("uv") or shutil.which("uv", path=str(ROOT / ".venv" / "bin"))
    if uv is None:
        sys.exit("Making the locks needs uv: install it, or `.venv/bin/pip install uv`.")
    command = [uv, "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--generate-hashes"]
    command += ["--no-emit-index-url", "--no-emit-find-links", "--no-header", "--no-config"]
    if upgrade:
        command.append("--upgrade")
    for name in EXTRAS:
        extras = [word for extra in EXTRAS[name] for word in ("--extra", extra)]
        output = ["--output-file", f"requirements/{name}.txt"]
        subprocess.run([*command, *extras, "pyproject.toml", *output], cwd=ROOT, check=True)


def main(arguments: list[str]) -> None:
    if "--check" not in arguments:
        make("--upgrade" in arguments)
    locks = {name: (FOLDER / f"{name}.txt").read_text() for name in EXTRAS}
    found = problems((ROOT / "pyproject.toml").read_text(), locks)
    if found:
        sys.exit("\n".join(["The locks do not fit pyproject.toml (make lock):", *found]))


if __name__ == "__main__":
    main(sys.argv[1:])
