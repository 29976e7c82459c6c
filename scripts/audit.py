"""Known vulnerabilities of the locked packages (make audit).

python -m scripts.audit                 pip-audit asks OSV about each package in requirements/dev.txt
python -m scripts.audit --osv all.zip   the same from OSV's dump for PyPI, without a network

Exit codes: 0 all were looked at and nothing is known; 1 something is known; 3 not all were looked at. pip-audit
itself also ends with 1 when it reaches no server, and with 0 when it skipped packages; so only a package that its
answer names as looked at counts.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from scripts.advisories import DUMP, DumpError, newest, read, serving
from scripts.lock import FOLDER, pins, unpinned

# It holds the other locks (scripts.lock checks that).
LOCK = FOLDER / "dev.txt"
SERVICE = "https://api.osv.dev/v1/query"
VULNERABLE, NOT_AUDITED = 1, 3


def without_markers(lock: str) -> str:
    """A lock's text whose packages are for every platform and Python: pip-audit says nothing about the others."""
    return re.sub(r"(?m)^(\S+==\S+) ;[^\\\n]*", r"\1 ", lock)


def judge(answer: Mapping[str, Any], packages: Iterable[str]) -> tuple[list[str], list[str]]:
    """The vulnerabilities in pip-audit's JSON, one line each, and those packages that it did not look at."""
    looked_at = {canonicalize_name(one["name"]): one for one in answer["dependencies"] if "vulns" in one}
    found = []
    for one in looked_at.values():
        for vulnerability in one["vulns"]:
            names = ", ".join([vulnerability["id"], *vulnerability["aliases"]])
            fixed = ", ".join(vulnerability["fix_versions"]) or "no version"
            found.append(f"{one['name']} {one['version']}: {names} (fixed in {fixed})")
    return found, sorted(set(packages) - set(looked_at))


def ask(lock: str, service: str) -> tuple[Mapping[str, Any], str]:
    """pip-audit's answer (no dependencies when it gave none), and the last line that it said."""
    count, asked, said = len(pins(lock)), 0, ""
    with tempfile.TemporaryDirectory() as folder:
        requirements, output = Path(folder, "requirements.txt"), Path(folder, "answer.json")
        requirements.write_text(without_markers(lock))
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(requirements), "--require-hashes"]
        command += ["--disable-pip", "--vulnerability-service", "osv", "--osv-url", service]
        command += ["--format", "json", "--output", str(output), "--progress-spinner", "off", "--verbose"]
        env = os.environ if service == SERVICE else {**os.environ, "no_proxy": "127.0.0.1"}
        with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            for line in process.stderr:
                said = line.strip() or said
                if ":Auditing " in line:
                    asked += 1
                    _show(f"audit: {asked}/{count} {line.split(':Auditing ')[1].strip()}")
        _show("")
        return json.loads(output.read_text()) if output.exists() else {"dependencies": []}, said


def _show(text: str) -> None:
    """The line of progress, for people; a log gets none."""
    if sys.stdout.isatty():
        print(f"\r\033[K{text[:100]}", end="", flush=True)


def audit(service: str, source: str) -> int:
    """Ask a service that is named `source`, say what came of it, and give the exit code."""
    lock = LOCK.read_text()
    packages = pins(lock)
    if not packages or unpinned(lock):
        print(f"audit: NOT AUDITED: {LOCK.name} is no lock of exact versions (make lock)", file=sys.stderr)
        return NOT_AUDITED
    print(f"audit: asking about {len(packages)} packages ({source})", flush=True)
    answer, said = ask(lock, service)
    found, missing = judge(answer, packages)
    for line in found:
        print(line)
    if missing:
        which = "none of the packages" if len(missing) == len(packages) else f"not {', '.join(missing)}"
        print(
            f"audit: NOT AUDITED: {which}. pip-audit's last words:\n"
            f"    {said}\n"
            f"Check the network and HTTPS_PROXY. Without a network: get {DUMP}\n"
            "elsewhere, then: make audit OSV=all.zip",
            file=sys.stderr,
        )
    elif not found:
        print(f"audit: {len(packages)} packages, no known vulnerabilities")
    if found:
        print(f"audit: {len(found)} known vulnerabilities", file=sys.stderr)
        return VULNERABLE
    return NOT_AUDITED if missing else 0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.audit", description="Audit requirements/dev.txt.")
    parser.add_argument("--osv", type=Path, metavar="all.zip", help=f"OSV's dump for PyPI, from {DUMP}")
    dump: Path | None = parser.parse_args(arguments).osv
    if dump is None:
        return audit(SERVICE, SERVICE)
    print(f"audit: reading {dump}", flush=True)
    try:
        advisories = read(dump)
    except DumpError as error:
        print(f"audit: NOT AUDITED: {error}.\nIt has to be {DUMP}", file=sys.stderr)
        return NOT_AUDITED
    with serving(advisories) as service:
        return audit(service, f"{dump}, newest change {newest(advisories)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
