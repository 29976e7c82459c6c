"""deploy/systemd: units that systemd takes, that let the services end, and that leave them few rights."""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from deployed import SETTINGS, gateway_end_seconds, relay_end_seconds, seconds

from demo.process import ROOT
from gateway.settings import FILE_RESERVE

FOLDER = ROOT / "deploy" / "systemd"
UNITS = {"notification-gateway@.service": gateway_end_seconds(), "notification-relay.service": relay_end_seconds()}
EXPOSURE = 20
"""In tenths, as `systemd-analyze security` counts: it was 14 with systemd 252, and a plain unit has 96."""


def as_shipped(unit: str) -> str:
    return (FOLDER / unit).read_text()


def with_certificates(unit: str) -> str:
    """With the lines that are commented out."""
    return re.sub("^#(?=[A-Z][A-Za-z]+=)", "", as_shipped(unit), flags=re.MULTILINE)


def lines_of(unit: str, name: str, text: Callable[[str], str] = as_shipped) -> list[str]:
    return [line.partition("=")[2] for line in text(unit).splitlines() if line.startswith(f"{name}=")]


def analyzed(*arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60)


def test_there_is_a_unit_for_each_service() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(UNITS)


@pytest.mark.parametrize("text", [as_shipped, with_certificates])
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_takes_it(unit: str, text: Callable[[str], str], tmp_path: Path) -> None:
    # The program has to be there, and an instance has to have a name.
    (program,) = lines_of(unit, "ExecStart")
    copy = tmp_path / unit.replace("@", "@1")
    copy.write_text(text(unit).replace(program, sys.executable))
    done = analyzed("verify", "--man=no", str(copy))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS)
def test_what_is_taken_over_has_few_rights(unit: str) -> None:
    done = analyzed("security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", str(FOLDER / unit))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("unit", "end_seconds"), UNITS.items())
def test_the_service_is_given_the_time_that_it_takes_to_end(unit: str, end_seconds: float) -> None:
    (timeout,) = lines_of(unit, "TimeoutStopSec")
    assert seconds(timeout) > end_seconds
    assert lines_of(unit, "KillSignal") == ["SIGTERM"]


def test_it_says_how_many_files_a_replica_keeps_from_clients() -> None:
    unit = as_shipped("notification-gateway@.service")
    assert f"# A client is one; {FILE_RESERVE:,} are for everything else.\nLimitNOFILE=" in unit


@pytest.mark.parametrize("unit", UNITS)
def test_it_starts_a_command_that_is_installed_with_settings_that_exist(unit: str) -> None:
    (program,) = lines_of(unit, "ExecStart")
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert Path(program).name in scripts
    assert {pair.partition("=")[0] for pair in lines_of(unit, "Environment")} <= SETTINGS


@pytest.mark.parametrize("unit", UNITS)
def test_certificates_are_handed_over_and_are_where_the_settings_name_them(unit: str) -> None:
    loaded = dict(line.split(":") for line in lines_of(unit, "LoadCredential", with_certificates))
    assert len(loaded) == 2
    assert all(path == f"/etc/notification/{name}" for name, path in loaded.items())
    variables = dict(line.split("=") for line in lines_of(unit, "Environment", with_certificates))
    assert variables.keys() <= SETTINGS
    assert {path for name, path in variables.items() if name.endswith("_FILE")} == {f"%d/{name}" for name in loaded}
    assert lines_of(unit, "LoadCredential") == []
