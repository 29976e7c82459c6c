"""The version of relay and gateway: pyproject.toml, `--version` and the published documents have it from here."""

from typing import Final

VERSION: Final = "0.1.0"
