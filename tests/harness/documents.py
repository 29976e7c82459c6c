"""The commands of this project's documents: blocks of `sh` in its Markdown files."""

import re
import subprocess
from dataclasses import dataclass

from demo.process import ROOT

_FENCED = re.compile(r"^```(?:sh|bash|console|shell)\b[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_NEEDS = re.compile(r"# needs (\S.*)\n")


@dataclass(frozen=True)
class Block:
    """One block. `needs` is what its first line says (`# needs Docker`) that a machine may not have."""

    file: str
    text: str

    @property
    def needs(self) -> str | None:
        match = _NEEDS.match(self.text)
        return match[1] if match else None

    @property
    def commands(self) -> tuple[str, ...]:
        """Each command on one line, without comments."""
        joined = re.sub(r"\\\n\s*", "", self.text)
        lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in joined.splitlines())
        return tuple(line for line in lines if line)

    def __str__(self) -> str:
        return f"{self.file}: {(self.commands or ('nothing',))[0]}"


def all_blocks() -> list[Block]:
    """Those of all Markdown files that belong to the project."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout.split("\0")
    return [block for name in names if name for block in blocks_of(name, (ROOT / name).read_text())]


def blocks_of(name: str, markdown: str) -> list[Block]:
    """Those of one file."""
    return [Block(name, match[1]) for match in _FENCED.finditer(markdown)]
