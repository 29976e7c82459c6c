"""The locks: requirements/runtime.txt, demo.txt, dev.txt.

python -m scripts.lock             make them anew from pyproject.toml (needs uv and a package index)
python -m scripts.lock --upgrade   ... with the newest versions that pyproject.toml allows
python -m scripts.lock --check     say whether they fit pyproject.toml, and that what the code imports (needs neither)
"""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import packages_distributions
from pathlib import Path, PurePath
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "requirements"
# Each lock holds the ones before it, so that one environment serves all.
EXTRAS: dict[str, tuple[str, ...]] = {
    "runtime": ("tracing",),
    "demo": ("tracing", "demo"),
    "dev": ("tracing", "demo", "dev"),
}
# The lock whose packages the code of a folder may import; that of the other folders is dev.
LOCKS = {"gateway": "runtime", "relay": "runtime", "shared": "runtime", "deploy": "runtime", "demo": "demo"}
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
        for requirement in _declared(project, name):
            version = pinned.get(canonicalize_name(requirement.name))
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


def undeclared(pyproject: str, sources: Mapping[str, str], providers: Mapping[str, Iterable[str]]) -> list[str]:
    """Imports that pyproject.toml does not allow, one line each.

    `sources` are the texts of all Python files by path, `providers` the packages that bring each module.
    """
    project = tomllib.loads(pyproject)
    # Where this repository's own modules are found: its root, and what only tests search.
    own: dict[str, str] = {}
    for folder in project["tool"]["pytest"]["ini_options"]["pythonpath"]:
        for path in map(PurePath, sources):
            if path.is_relative_to(folder):
                own.setdefault(path.relative_to(folder).parts[0].removesuffix(".py"), _lock_of(path))
    found = []
    for file, text in sources.items():
        name = _lock_of(PurePath(file))
        declared = {canonicalize_name(requirement.name) for requirement in _declared(project["project"], name)}
        for module in sorted(set(_imported(text)) - sys.stdlib_module_names):
            if module in own:
                allowed = set(EXTRAS[own[module]]) <= set(EXTRAS[name])
            else:
                allowed = any(canonicalize_name(package) in declared for package in providers.get(module, ()))
            if not allowed:
                found.append(f"{file} imports {module}, which is not declared for {name}")
    return found


def _declared(project: Mapping[str, Any], name: str) -> list[Requirement]:
    """The direct dependencies that a lock is made of."""
    texts = [*project["dependencies"]]
    for extra in EXTRAS[name]:
        texts += project["optional-dependencies"][extra]
    requirements = map(Requirement, texts)
    return [one for one in requirements if canonicalize_name(one.name) != canonicalize_name(project["name"])]


def _lock_of(path: PurePath) -> str:
    return LOCKS.get(path.parts[0], "dev")


def _imported(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def python_files() -> dict[str, str]:
    """The text of each Python file of this repository, by path."""
    return {str(path.relative_to(ROOT)): path.read_text() for path in sorted(ROOT.glob("[!.]*/**/*.py"))}


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
    pyproject = (ROOT / "pyproject.toml").read_text()
    locks = {name: (FOLDER / f"{name}.txt").read_text() for name in EXTRAS}
    if found := problems(pyproject, locks):
        sys.exit("\n".join(["The locks do not fit pyproject.toml (make lock):", *found]))
    if found := undeclared(pyproject, python_files(), packages_distributions()):
        sys.exit("\n".join(["pyproject.toml does not fit what the code imports:", *found]))


if __name__ == "__main__":
    main(sys.argv[1:])
