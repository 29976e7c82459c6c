"""What the files of deploy/ are held against: the settings, and how long the services take to end."""

from typing import Any

import yaml

from demo.process import ROOT
from gateway.replica import EXIT_SECONDS, SLOT_SECONDS
from relay import tracing
from relay.__main__ import LEAVE_SECONDS
from scripts.env_example import settings_classes

_FIELDS = {name.upper(): field for one in settings_classes() for name, field in one.model_fields.items()}

SETTINGS = frozenset(_FIELDS)
"""The environment variables that relay or gateway reads."""


def default_of(name: str) -> Any:
    """A setting's default."""
    return _FIELDS[name].default


def gateway_end_seconds() -> float:
    """The longest that a replica takes from SIGTERM to its end, by the defaults: the drain, its last sockets, and
    what Redis is told."""
    return float(default_of("DRAIN_DELAY_SECONDS") + default_of("DRAIN_SECONDS") + SLOT_SECONDS + 2 * EXIT_SECONDS)


def relay_end_seconds() -> float:
    """The longest that a relay takes from SIGTERM to its end, by the defaults: relay.__main__ waits four times
    RELAY_STOP_SECONDS, tells Redis, and sends its last spans."""
    return float(4 * default_of("RELAY_STOP_SECONDS") + LEAVE_SECONDS + tracing.END_SECONDS)


def seconds(text: str) -> float:
    """A duration as Docker and systemd have it: `40s`, `2min`."""
    number, unit = (text[:-3], 60) if text.endswith("min") else (text.removesuffix("s"), 1)
    return float(number) * unit


def documents(path: str) -> list[Any]:
    """What a YAML file of this checkout holds."""
    return list(yaml.safe_load_all((ROOT / path).read_text()))
