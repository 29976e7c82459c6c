"""Where the running demo is: a small file that `demo.client` and `demo.send` read."""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from demo.process import ROOT

FILE = ROOT / ".cache" / "demo.json"


@dataclass(frozen=True)
class Place:
    """A running demo: its pid, its Kafka brokers, its replicas (`ws://host:port`) and Redis."""

    pid: int
    brokers: str
    replicas: tuple[str, ...]
    redis: str

    @contextlib.contextmanager
    def shown(self, file: Path = FILE) -> Iterator[None]:
        """While the block runs, `running_demo` finds it; the newest demo of a checkout wins."""
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_suffix(f".{self.pid}")
        new.write_text(json.dumps(asdict(self)))
        os.replace(new, file)
        try:
            yield
        finally:
            if _read(file) == self:
                file.unlink(missing_ok=True)


def running_demo(file: Path = FILE) -> Place | None:
    """The demo that runs from this checkout; None when none does."""
    place = _read(file)
    if place is None:
        return None
    try:
        os.kill(place.pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # somebody else's, but it runs
    return place


def _read(file: Path) -> Place | None:
    try:
        fields = json.loads(file.read_text())
        return Place(fields["pid"], fields["brokers"], tuple(fields["replicas"]), fields["redis"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
