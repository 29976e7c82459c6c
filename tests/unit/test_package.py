"""What `pip install .` puts beside the Python files."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_file_that_the_code_reads_is_installed_with_it() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for package in ("gateway", "relay", "shared"):
        files = {path for path in (ROOT / package).rglob("*.*") if path.suffix not in (".py", ".pyc")}
        installed = {path for pattern in data.get(package, ()) for path in (ROOT / package).glob(pattern)}
        assert files == installed, package
