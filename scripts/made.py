"""Files that are made from the code: written, or held against what they should be (`--check`)."""

import sys
from collections.abc import Sequence
from pathlib import Path


def write_or_check(file: Path, text: str, arguments: Sequence[str], complaint: str) -> None:
    """Write `text` to `file`; with `--check` end with `complaint` and code 1 where that is not what it has."""
    if "--check" not in arguments:
        file.write_text(text)
    elif not file.exists() or file.read_text() != text:
        sys.exit(complaint)
