"""OSV's advisories from a file, for machines without a network.

The file is OSV's dump for PyPI (`DUMP`): a zip with one JSON file for each advisory. pip-audit knows only how
to ask a server, so `serving` is one, on loopback, that answers as OSV does.
"""

import json
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from packaging.utils import canonicalize_name
from packaging.version import Version

DUMP = "https://osv-vulnerabilities.storage.googleapis.com/PyPI/all.zip"
Advisory = Mapping[str, Any]


class DumpError(Exception):
    """Its text says why a file is no dump of OSV for PyPI."""


def read(dump: Path) -> list[Advisory]:
    """The advisories in a dump. Raises DumpError when it has none for PyPI."""
    try:
        with ZipFile(dump) as archive:
            advisories = [json.loads(archive.read(name)) for name in archive.namelist() if name.endswith(".json")]
        of_pypi = [advisory for advisory in advisories if _affected(advisory)]
    except (OSError, BadZipFile, ValueError, TypeError, AttributeError, LookupError) as error:
        raise DumpError(f"{dump} cannot be read: {type(error).__name__}: {error}") from error
    if not of_pypi:
        raise DumpError(f"{dump} has no advisory for PyPI")
    return advisories


def newest(advisories: Iterable[Advisory]) -> str:
    """The day of the newest change, which says how old a dump is."""
    return max(str(advisory.get("modified", "")) for advisory in advisories)[:10]


def affects(advisory: Advisory, package: str, version: Version) -> bool:
    """Whether a package's version is one of those that an advisory names, singly or by ranges."""
    return any(
        version in map(_version, affected.get("versions", ()))
        or any(_is_within(one["events"], version) for one in affected.get("ranges", ()) if one["type"] == "ECOSYSTEM")
        for affected in _affected(advisory)
        if canonicalize_name(affected["package"]["name"]) == canonicalize_name(package)
    )


def _affected(advisory: Advisory) -> list[Mapping[str, Any]]:
    return [one for one in advisory.get("affected", ()) if one.get("package", {}).get("ecosystem") == "PyPI"]


def _version(text: str) -> Version | None:
    """None for what PyPI took long ago and is no version today."""
    try:
        return Version(text)
    except ValueError:
        return None


def _is_within(events: Iterable[Mapping[str, str]], version: Version) -> bool:
    """OSV's rule: in the order of versions, the last event that reached this one decides."""
    inside = False
    for at, kind in sorted((Version(text), kind) for event in events for kind, text in event.items()):
        if kind == "introduced" and version >= at:
            inside = True
        elif (kind == "fixed" and version >= at) or (kind == "last_affected" and version > at):
            inside = False
    return inside


@contextmanager
def serving(advisories: Iterable[Advisory]) -> Iterator[str]:
    """Answer OSV's `/v1/query` from these advisories; gives the address."""
    by_package: dict[str, list[Advisory]] = defaultdict(list)
    for advisory in advisories:
        for name in {canonicalize_name(affected["package"]["name"]) for affected in _affected(advisory)}:
            by_package[name].append(advisory)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name, version = canonicalize_name(query["package"]["name"]), Version(query["version"])
            found = [advisory for advisory in by_package.get(name, ()) if affects(advisory, name, version)]
            body = json.dumps({"vulns": found} if found else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Nothing: the one who asks says what came of it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/query"
        finally:
            server.shutdown()
            thread.join()
