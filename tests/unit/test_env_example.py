"""scripts/env_example.py, and .env.example itself."""

import pytest
from pydantic import Field, SecretStr

from scripts.env_example import FILE, render, settings_classes
from shared.settings import CommaSeparated, Settings


def test_the_file_in_the_repository_is_fresh() -> None:
    assert FILE.read_text() == render(settings_classes()), "run: python -m scripts.env_example"


def test_every_service_is_in_it() -> None:
    modules = {settings.__module__ for settings in settings_classes()}
    assert modules == {"shared.settings", "relay.settings", "gateway.settings"}


def test_the_file_can_be_read_as_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for settings in settings_classes():
        for name in settings.model_fields:
            monkeypatch.delenv(name.upper(), raising=False)
        assert settings(_env_file=FILE) == settings(_env_file=None)  # type: ignore[call-arg]


def test_each_variable_stands_once() -> None:
    variables = [line.split("=")[0] for line in FILE.read_text().splitlines() if line and not line.startswith("#")]
    assert len(variables) == len(set(variables)) > 10


class _Example(Settings):
    """A concern.

    More about it.
    """

    __module__ = "relay.settings"

    some_url: SecretStr = Field(SecretStr("redis://host"), description="where\n    it is")
    names: CommaSeparated = Field(("a", "b"), description="a list")
    wait_seconds: float = Field(2.0, description="a number")
    is_on: bool = Field(False, description="a switch")
    limit: int | None = Field(None, description="unset")
    drop: dict[str, str] = Field({}, description="empty")


def test_values_are_written_as_they_are_set() -> None:
    lines = render([_Example]).splitlines()
    assert "# --- relay: A concern." in lines
    assert lines[lines.index("SOME_URL=redis://host") - 1] == "# where it is"
    assert {"NAMES=a,b", "WAIT_SECONDS=2", "IS_ON=false", "LIMIT=", "DROP="} < set(lines)


def test_a_field_without_description_is_refused() -> None:
    class Silent(Settings):
        number: int = 1

    with pytest.raises(ValueError, match="number has no description"):
        render([Silent])
