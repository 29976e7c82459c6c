"""The console's own decisions, tested in JavaScript by node's test runner: tests/console/*.test.mjs."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(shutil.which("node") is None, reason="no node on this machine")
def test_what_the_page_decides() -> None:
    files = sorted(str(file) for file in (ROOT / "tests" / "console").glob("*.test.mjs"))
    assert files
    ran = subprocess.run(["node", "--test", *files], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout[-5_000:] + ran.stderr[-2_000:]
