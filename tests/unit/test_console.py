"""The console's own decisions, tested in JavaScript by node's test runner (tests/console/*.test.mjs), and its types."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TSC = ROOT / "clients" / "typescript" / "node_modules" / "typescript" / "bin" / "tsc"


@pytest.mark.skipif(shutil.which("node") is None, reason="no node on this machine")
def test_what_the_page_decides() -> None:
    files = sorted(str(file) for file in (ROOT / "tests" / "console").glob("*.test.mjs"))
    assert files
    ran = subprocess.run(["node", "--test", *files], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout[-5_000:] + ran.stderr[-2_000:]


@pytest.mark.skipif(not TSC.exists() and not os.environ.get("CI"), reason="no TypeScript: make client")
def test_its_types_fit() -> None:
    config = ROOT / "tests" / "console" / "tsconfig.json"
    ran = subprocess.run(
        ["node", str(TSC), "-p", str(config)], capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stdout[-5_000:] + ran.stderr[-2_000:]


def test_all_of_its_own_files_have_their_types_checked() -> None:
    ours = [file for file in (ROOT / "gateway" / "console").glob("*.js") if file.name != "client.js"]
    assert ours
    assert [file.name for file in ours if not file.read_text().startswith("// @ts-check\n")] == []
