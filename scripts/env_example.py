""".env.example, made from the settings classes: each variable, its default, one line on what it is.

python -m scripts.env_example            write it
python -m scripts.env_example --check    say whether it is fresh
"""

import importlib
import sys
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from scripts.made import write_or_check
from shared.settings import Settings

FILE = Path(__file__).resolve().parent.parent / ".env.example"
MODULES = ("shared.settings", "relay.settings", "gateway.settings")
_OWNERS = {"shared": "relay and gateway", "relay": "relay", "gateway": "gateway"}
_HEAD = """\
# Every setting with its default. Set it in the environment, or in a file .env where the process starts.
# Made by `make lock` from the settings classes; an empty value is the default.
"""


def settings_classes(modules: Iterable[str] = MODULES) -> list[type[Settings]]:
    """All settings classes, in the order in which the modules define them, each once."""
    found: dict[type[Settings], None] = {}
    for name in modules:
        for value in vars(importlib.import_module(name)).values():
            if isinstance(value, type) and issubclass(value, Settings) and value.__module__ == name:
                found[value] = None
    found.pop(Settings, None)
    return list(found)


def render(classes: Iterable[type[Settings]]) -> str:
    """The file's text. A field of several classes stands with the first.

    Raises ValueError for a field without a description.
    """
    parts, seen = [_HEAD], set()
    for settings in classes:
        lines = []
        for name, field in settings.model_fields.items():
            if name in seen:
                continue
            seen.add(name)
            if not field.description:
                raise ValueError(f"{settings.__module__}.{settings.__name__}.{name} has no description")
            lines.append(f"# {' '.join(field.description.split())}\n{name.upper()}={default_text(field)}")
        if lines:
            parts.append("\n".join([f"# --- {title(settings)}", *lines, ""]))
    return "\n".join(parts)


def title(settings: type[Settings]) -> str:
    """Whose settings they are, and what they are about, in one line."""
    about = " ".join((settings.__doc__ or settings.__name__).split("\n\n")[0].split())
    return f"{_OWNERS[settings.__module__.split('.')[0]]}: {about}"


def default_text(field: FieldInfo) -> str:
    """A field's default as a variable holds it; empty for unset."""
    default: Any = None if field.is_required() else field.get_default(call_default_factory=True)
    if default is None or (isinstance(default, Mapping) and not default):
        return ""
    if isinstance(default, SecretStr):
        return default.get_secret_value()
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, Enum):
        return str(default.value)
    if isinstance(default, float) and default.is_integer():
        return str(int(default))
    if isinstance(default, tuple | list | set | frozenset):
        return ",".join(sorted(map(str, default)) if isinstance(default, set | frozenset) else map(str, default))
    return str(default)


def main(arguments: list[str]) -> None:
    complaint = ".env.example does not fit the settings classes: python -m scripts.env_example"
    write_or_check(FILE, render(settings_classes()), arguments, complaint)


if __name__ == "__main__":
    main(sys.argv[1:])
