"""docs/settings.md, made from the settings classes: each variable, what it takes, its default, what it is.

python -m scripts.settings_table            write it
python -m scripts.settings_table --check    say whether it is fresh
"""

import sys
import types
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from scripts.env_example import default_text, settings_classes, title
from scripts.made import write_or_check
from shared.settings import Settings

FILE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"
_HEAD = """\
# Settings

Every setting of both services, made from the code by `make lock`. Set them in the environment, or in a file `.env`
where the process starts; the environment wins. Empty is unset. Lists are separated by commas, or JSON. A wrong value
stops the start with one line that names the variable, what it got and what it takes; secrets are never shown.
"""
_WORDS: Mapping[Any, str] = {str: "text", int: "integer", float: "number", bool: "true or false", SecretStr: "secret"}
_BOUNDS = (("ge", "from {}"), ("gt", "above {}"), ("le", "to {}"), ("lt", "below {}"))


def render(classes: Iterable[type[Settings]]) -> str:
    """The page. A field of several classes stands with the first."""
    parts, seen = [_HEAD], set()
    for settings in classes:
        rows = []
        for name, field in settings.model_fields.items():
            if name not in seen:
                seen.add(name)
                default = default_text(field)
                cells = (f"`{name.upper()}`", takes(field), f"`{default}`" if default else "", field.description or "")
                rows.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
        if rows:
            head = ["| variable | takes | default | |", "|---|---|---|---|"]
            parts.append("\n".join([f"## {title(settings).split('. ')[0].removesuffix('.')}", "", *head, *rows, ""]))
    return "\n".join(parts)


def takes(field: FieldInfo) -> str:
    """In words: a type and its bounds, or the values there are."""
    kind = _plain(field.annotation)
    origin = get_origin(kind)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in get_args(kind))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return " or ".join(f"`{member.value}`" for member in kind)
    if origin in (tuple, list, set, frozenset):
        return "list"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "mapping"
    bounds = [
        words.format(f"{getattr(bound, name):,}")
        for name, words in _BOUNDS
        for bound in field.metadata
        if isinstance(getattr(bound, name, None), int | float)
    ]
    return " ".join([_WORDS[kind], *bounds])


def _plain(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        (annotation,) = (kind for kind in get_args(annotation) if kind is not type(None))
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def main(arguments: list[str]) -> None:
    complaint = "docs/settings.md does not fit the settings classes: python -m scripts.settings_table"
    write_or_check(FILE, render(settings_classes()), arguments, complaint)


if __name__ == "__main__":
    main(sys.argv[1:])
