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
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)")


def pins(lock: str) -> dict[str, str]:
    """The version of each package in a lock file's text, by canonical name."""
    found = (_PIN.match(line) for line in lock.splitlines())
    return {canonicalize_name(match[1]): match[2] for match in found if match}


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
        # A pin and its hashes are one logical line, continued with backslashes.
        entries = ((entry, _PIN.match(entry)) for entry in re.split(r"(?<!\\)\n", lock))
        found += [f"{name}: {pin[1]} has no hash" for entry, pin in entries if pin and "--hash=sha256:" not in entry]
        if "://" in lock or re.search(r"^\s*--(index|extra|find|trusted)", lock, re.MULTILINE):
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
