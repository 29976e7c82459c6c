"""Make .venv and install what the locks say; nothing to do when that is done.

    python scripts/setup.py demo    what `make demo` needs
    python scripts/setup.py dev     what `make test` and `make check` need (demo is part of it)

Run by scripts/setup.sh with the Python that it found; only the standard library.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
# What holds each set: `dev` includes `demo` (scripts.lock checks that).
SATISFIED_BY = {"demo": ("demo", "dev"), "dev": ("dev",)}


class SetupFailed(Exception):
    """Its text says what is missing and how to get it."""


def main(wanted: str) -> None:
    usable = _version(PYTHON) is not None and not _another_was_chosen()
    if usable and any(_is_installed(name) for name in SATISFIED_BY[wanted]):
        return
    _refuse_unsupported()
    if not usable:
        _make_venv()
    requirements = ROOT / "requirements" / f"{wanted}.txt"
    count = sum("==" in line for line in requirements.read_text().splitlines())
    print(f"setup: installing {count} packages into .venv (Python {_version(PYTHON)})", flush=True)
    _install(_installer(), requirements, count)
    _stamp(wanted).write_text(_fingerprint(wanted))
    print("setup: done", flush=True)


def _is_installed(name: str) -> bool:
    stamp = _stamp(name)
    return stamp.is_file() and stamp.read_text() == _fingerprint(name)


def _stamp(name: str) -> Path:
    return VENV / f".installed-{name}"


def _fingerprint(name: str) -> str:
    """What a stamp holds when nothing has changed: the lock, and the Python that .venv stands on."""
    lock = hashlib.sha256((ROOT / "requirements" / f"{name}.txt").read_bytes()).hexdigest()
    return f"{lock} {_version(PYTHON)}\n"


def _version(python: Path) -> str | None:
    """Its version and where it comes from; None when it does not start (one that was removed leaves
    a dead link) or does not fit."""
    code = (
        "import sys; print('%d.%d.%d from %s' % (*sys.version_info[:3], sys.base_prefix));"
        "sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))"
    )
    try:
        asked = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return asked.stdout.strip() if asked.returncode == 0 else None


def _another_was_chosen() -> bool:
    """Whether PYTHON names another one than .venv stands on."""
    return bool(os.environ.get("PYTHON")) and _version(PYTHON) != _version(Path(sys.executable))


def _refuse_unsupported() -> None:
    system, machine = platform.system(), platform.machine().lower()
    known_system = system == "Darwin" or (system == "Linux" and platform.libc_ver()[0] == "glibc")
    if known_system and machine in ("x86_64", "amd64", "aarch64", "arm64"):
        return
    raise SetupFailed(
        f"This machine is {system} on {machine} with C library {platform.libc_ver()[0] or 'unknown'}; the embedded "
        "Valkey and Kafka exist for Linux with glibc and for macOS, on x86-64 and ARM64.\n"
        "Use one of these (or a Debian container)."
    )


def _make_venv() -> None:
    """With pip when this Python can, else without: `_installer` finds another."""
    print(f"setup: making .venv with {sys.executable}", flush=True)
    base = getattr(sys, "_base_executable", sys.executable)
    if VENV.exists():
        shutil.rmtree(VENV)
    for option in ([], ["--without-pip"]):
        made = subprocess.run([base, "-m", "venv", *option, VENV], capture_output=True, text=True, check=False)
        if made.returncode == 0 and _version(PYTHON):
            return
        shutil.rmtree(VENV, ignore_errors=True)
    raise SetupFailed(
        f"{base} cannot make a virtual environment:\n{made.stdout}{made.stderr}\n"
        "Debian and Ubuntu have it in a package of its own: sudo apt install python3-venv"
    )


def _installer() -> list[str]:
    """The command that installs into .venv: its own pip, another Python's pip, or uv."""
    if _runs([str(PYTHON), "-m", "pip", "--version"]):
        return [str(PYTHON), "-m", "pip", "install"]
    base = getattr(sys, "_base_executable", sys.executable)
    others = ["python3", *(f"python3.{minor}" for minor in (14, 13, 12, 11))]
    for pip in ([base, "-m", "pip"], *([python, "-m", "pip"] for python in others), ["pip3"], ["pip"]):
        # pip 22.3 or newer; `list`, since an old one may start under a newer Python and then fail.
        if _runs([*pip, "--python", str(PYTHON), "list"]):
            return [*pip, "--python", str(PYTHON), "install"]
    if _runs(["uv", "--version"]):
        return ["uv", "pip", "install", "--python", str(PYTHON)]
    raise SetupFailed(
        f"{base} has no pip to give to .venv (its module ensurepip is missing), and neither another pip (22.3 or "
        "newer) nor uv was found. Get one:\n"
        "    Debian, Ubuntu:  sudo apt install python3-venv   (or python3-pip)\n"
        "    Fedora:          sudo dnf install python3-pip\n"
        "    anywhere:        install uv\n"
        "then run the same command again."
    )


def _runs(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _install(installer: list[str], requirements: Path, count: int) -> None:
    """Run the installer, one line of progress; what it said is shown when it fails."""
    # The lock is complete: --no-deps lets nothing in that has no hash.
    command = [*installer, "--require-hashes", "--no-deps", "-r", str(requirements)]
    env = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_ROOT_USER_ACTION": "ignore"}
    seen = 0
    with tempfile.TemporaryFile("w+") as log:
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                log.write(line)
                if line.startswith(("Collecting ", "Requirement already satisfied: ")):
                    seen += 1
                    _show(f"setup: {min(seen, count)}/{count} {line.split(': ')[-1].split()[-1].split('==')[0]}")
                elif line.startswith(("Installing ", "Building ")):
                    _show("setup: " + line.split(":")[0].strip())
        _show("")
        if process.returncode == 0:
            return
        log.seek(0)
        said = "".join(log.readlines()[-25:])
    raise SetupFailed(
        f"{said}\nInstalling failed (above: the installer's last lines). It needs a package index: check the network, "
        "a proxy, or PIP_INDEX_URL.\nThen run the same command again; what was downloaded is kept."
    )


def _show(text: str) -> None:
    """The line of progress, for people; a log gets none."""
    if sys.stdout.isatty():
        print(f"\r\033[K{text[:100]}", end="", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in SATISFIED_BY:
        sys.exit("usage: python scripts/setup.py demo|dev")
    try:
        main(sys.argv[1])
    except SetupFailed as failure:
        sys.exit(f"\nsetup: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
