"""scripts/audit.py and scripts/advisories.py: what is vulnerable is told, and never "nothing" when nobody answered."""

import json
import socket
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from packaging.version import Version

from scripts import audit
from scripts.advisories import DumpError, affects, newest, read

HASH = f"--hash=sha256:{'0a' * 32}"
LOCK = f"one==1.5 \\\n    {HASH}\nt-w.o==2.0 ; sys_platform == 'nowhere' \\\n    {HASH}\n"


def advisory(package: str, *events: tuple[str, str], versions: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    affected = {
        "package": {"name": package, "ecosystem": "PyPI"},
        "versions": versions,
        "ranges": [
            {"type": "GIT", "events": [{"introduced": "0"}]},
            {"type": "ECOSYSTEM", "events": [{kind: at} for kind, at in events]},
        ],
    }
    return {"id": "PYSEC-1", "modified": "2026-01-02T03:04:05Z", "affected": [affected], **more}


def dump(folder: Path, *advisories: Any) -> Path:
    file = folder / "all.zip"
    with ZipFile(file, "w") as archive:
        for number, one in enumerate(advisories):
            archive.writestr(f"{number}.json", json.dumps(one))
    return file


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "LOCK", tmp_path / "lock.txt")
    audit.LOCK.write_text(LOCK)


@pytest.mark.parametrize(
    ("events", "inside", "outside"),
    [
        ([("introduced", "0")], ["0.1", "99"], []),
        ([("introduced", "0"), ("fixed", "1.10")], ["0.1", "1.9", "1.10rc1"], ["1.10", "1.10.post1", "2"]),
        ([("introduced", "1.2"), ("last_affected", "1.10")], ["1.2", "1.10"], ["1.1.9", "1.10.1"]),
        ([("fixed", "1.5"), ("introduced", "2.0"), ("introduced", "1"), ("fixed", "2.1")], ["1", "2"], ["1.5", "2.1"]),
    ],
)
def test_ranges_are_read_in_the_order_of_versions(
    events: list[tuple[str, str]], inside: list[str], outside: list[str]
) -> None:
    one = advisory("it", *events)
    assert [version for version in inside + outside if affects(one, "it", Version(version))] == inside
    assert not any(affects(one, "other", Version(version)) for version in inside)


def test_single_versions_are_compared_as_versions_and_names_as_names() -> None:
    one = advisory("Some_Thing", versions=("no version", "1.0"))
    assert affects(one, "some-thing", Version("1.0.0"))
    assert not affects(one, "some-thing", Version("1.0.1"))


def test_a_dump_without_advisories_for_pypi_is_refused(tmp_path: Path) -> None:
    npm = {"affected": [{"package": {"name": "one", "ecosystem": "npm"}, "versions": ["1.5"]}]}
    assert newest(read(dump(tmp_path, npm, advisory("one")))) == "2026-01-02"
    for file in (dump(tmp_path, npm), dump(tmp_path), tmp_path / "missing", Path(__file__)):
        with pytest.raises(DumpError, match=file.name):
            read(file)


def test_packages_of_other_platforms_are_asked_about() -> None:
    assert "sys_platform" not in audit.without_markers(LOCK)
    assert audit.pins(audit.without_markers(LOCK)) == audit.pins(LOCK)


def test_only_packages_that_the_answer_names_as_looked_at_count() -> None:
    answer = {
        "dependencies": [
            {"name": "One", "version": "1.5", "vulns": [{"id": "A", "aliases": ["B"], "fix_versions": ["1.6"]}]},
            {"name": "fine", "version": "1.0", "vulns": []},
            {"name": "skipped", "skip_reason": "not found"},
        ]
    }
    found, missing = audit.judge(answer, ["fine", "one", "silent", "skipped"])
    assert found == ["One 1.5: A, B (fixed in 1.6)"]
    assert missing == ["silent", "skipped"]


@pytest.mark.usefixtures("lock")
def test_pip_audit_finds_what_a_dump_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    advisories = [
        advisory("one", ("introduced", "0"), ("fixed", "1.6"), aliases=["CVE-1"]),
        advisory("t-w-o", versions=("2.0",)),
        advisory("one", ("introduced", "0"), withdrawn="2026-01-01T00:00:00Z", id="WITHDRAWN"),
        advisory("one", ("introduced", "0"), ("fixed", "1.5"), id="OLD"),
    ]
    assert audit.main(["--osv", str(dump(tmp_path, *advisories))]) == audit.VULNERABLE
    told = capsys.readouterr().out.splitlines()
    assert told[-2:] == ["one 1.5: PYSEC-1, CVE-1 (fixed in 1.6)", "t-w-o 2.0: PYSEC-1 (fixed in no version)"]


@pytest.mark.usefixtures("lock")
def test_nothing_known_is_said_when_all_were_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main(["--osv", str(dump(tmp_path, advisory("other", ("introduced", "0"))))]) == 0
    assert "2 packages, no known vulnerabilities" in capsys.readouterr().out


@pytest.mark.usefixtures("lock")
def test_a_service_that_is_not_reached_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as closed:  # bound, and listens to nobody
        closed.bind(("127.0.0.1", 0))
        assert audit.audit(f"http://127.0.0.1:{closed.getsockname()[1]}", "OSV") == audit.NOT_AUDITED
    said = capsys.readouterr()
    assert "no known" not in said.out
    assert "NOT AUDITED: none of the packages" in said.err
    assert "make audit OSV=" in said.err


@pytest.mark.usefixtures("lock")
@pytest.mark.parametrize("content", [[], 7, {"affected": None}, {"affected": [{"package": None}]}, {"affected": [7]}])
def test_a_dump_of_another_form_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: Any) -> None:
    assert audit.main(["--osv", str(dump(tmp_path, advisory("one"), content))]) == audit.NOT_AUDITED
    assert "NOT AUDITED" in capsys.readouterr().err


@pytest.mark.usefixtures("lock")
@pytest.mark.parametrize("text", ["", "one @ git+https://example.org/one\n", LOCK + "two>=1\n"])
def test_what_is_no_lock_is_not_audited(capsys: pytest.CaptureFixture[str], text: str) -> None:
    audit.LOCK.write_text(text)
    assert audit.audit("http://127.0.0.1:9", "OSV") == audit.NOT_AUDITED
    said = capsys.readouterr()
    assert "no known" not in said.out
    assert "no lock of exact versions" in said.err


@pytest.mark.usefixtures("lock")
def test_a_file_that_is_no_dump_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main(["--osv", __file__]) == audit.NOT_AUDITED
    said = capsys.readouterr()
    assert "no known" not in said.out
    assert "NOT AUDITED" in said.err
