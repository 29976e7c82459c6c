"""scripts/settings_table.py, and docs/settings.md itself."""

import enum
from collections.abc import Mapping
from typing import Literal

import pytest
from pydantic import Field, SecretStr

from scripts.env_example import settings_classes
from scripts.settings_table import FILE, render, takes
from shared.settings import CommaSeparated, Settings


class _Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class _Example(Settings):
    """A concern. More about it.

    And more.
    """

    __module__ = "relay.settings"

    text: str = Field("a", description="this|that, or <name>")
    secret: SecretStr | None = Field(None, description="a secret")
    bounded: int = Field(5, ge=1, le=65_536, description="bounded")
    above: float = Field(2.0, gt=0, lt=10, description="a number")
    at_least: int | None = Field(None, ge=3, description="no end")
    is_on: bool = Field(False, description="a switch")
    one_of: Literal["x", "y"] | None = Field(None, description="one of two")
    colour: _Colour = Field(_Colour.RED, description="one of two")
    names: CommaSeparated = Field(("a", "b"), description="a list")
    kept: Mapping[str, tuple[str, ...]] = Field({}, description="an object")


def test_the_page_in_the_repository_is_fresh() -> None:
    assert FILE.read_text() == render(settings_classes()), "run: python -m scripts.settings_table"


def test_a_row_has_what_a_person_needs() -> None:
    rows = render([_Example]).splitlines()
    assert "## relay: A concern" in rows
    assert "| `TEXT` | text | `a` | this\\|that, or &lt;name> |" in rows
    assert "| `SECRET` | secret |  | a secret |" in rows
    assert "| `NAMES` | list | `a,b` | a list |" in rows


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bounded", "integer from 1 to 65,536"),
        ("above", "number above 0 below 10"),
        ("at_least", "integer from 3"),
        ("is_on", "true or false"),
        ("one_of", "`x` or `y`"),
        ("colour", "`red` or `blue`"),
        ("kept", "mapping"),
    ],
)
def test_what_a_variable_takes_is_said_in_words(name: str, words: str) -> None:
    assert takes(_Example.model_fields[name]) == words
