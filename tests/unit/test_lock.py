"""scripts/lock.py: what it finds wrong with locks."""

import pytest

from scripts.lock import EXTRAS, FOLDER, ROOT, pins, problems, unpinned

PYPROJECT = """
[project]
name = "it"
dependencies = ["a>=1,<2"]
[project.optional-dependencies]
demo = ["b==2.*"]
dev = ["it[demo]", "c>=3"]
"""


HASH = f"--hash=sha256:{'0a' * 32}"


def entry(name: str, version: str) -> str:
    return f"{name}=={version} \\\n    {HASH} \\\n    {HASH}\n    # via it (pyproject.toml)\n"


def locks(**changes: str) -> dict[str, str]:
    runtime = entry("a", "1.5")
    demo = runtime + entry("b", "2.1")
    return {"runtime": runtime, "demo": demo, "dev": demo + entry("c", "3.0"), **changes}


def test_the_locks_in_the_repository_fit_pyproject() -> None:
    found = {name: (FOLDER / f"{name}.txt").read_text() for name in EXTRAS}
    assert problems((ROOT / "pyproject.toml").read_text(), found) == []


def test_good_locks_have_no_problems() -> None:
    assert problems(PYPROJECT, locks()) == []
    assert pins(locks()["demo"]) == {"a": "1.5", "b": "2.1"}


@pytest.mark.parametrize(
    ("dev", "problem"),
    [
        (entry("a", "1.5") + entry("b", "2.1"), "dev: c is not in it"),
        (entry("a", "1.5") + entry("b", "2.1") + entry("c", "2.9"), "dev: c is 2.9, pyproject.toml wants >=3"),
        (entry("a", "1.6") + entry("b", "2.1") + entry("c", "3.0"), "dev: a is 1.6, in the smaller lock 1.5"),
        (entry("a", "1.5") + entry("b", "2.1") + "c==3.0\n", "dev: c==3.0 has no hash"),
        (locks()["dev"] + "# from https://example.com\n", "dev: names an address"),
    ],
)
def test_a_bad_lock_is_told(dev: str, problem: str) -> None:
    assert problem in problems(PYPROJECT, locks(dev=dev))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("d==1.0", "d==1.0 has no hash"),
        (f"d==1.0 ; python_version < '3.12' \\\n    # {HASH}", "d==1.0 ; python_version < '3.12' has no hash"),
        (f"d==1.0 # {HASH}", "d==1.0 has no hash"),
        ("# a comment \\\n-e .", "-e . is not name==version"),
        ("d==1.0 --hash=md5:00", "d==1.0 has --hash=md5:00"),
        ("d==1.0 --hash=sha256:00", "d==1.0 has --hash=sha256:00"),
        (f"d==1.0 {HASH} \\\n    --config-settings=a=b", "d==1.0 has --config-settings=a=b"),
        (f"d {HASH}", "d is not name==version"),
        (f"d>=1.0 {HASH}", "d>=1.0 is not name==version"),
        (f"d~=1.0 {HASH}", "d~=1.0 is not name==version"),
        (f"d==1.* {HASH}", "d==1.* is not name==version"),
        (f"d===1.0 {HASH}", "d===1.0 is not name==version"),
        (f"d==1.0,!=1.1 {HASH}", "d==1.0,!=1.1 is not name==version"),
        (f"d @ https://example.com/d.whl {HASH}", "d @ https://example.com/d.whl is not name==version"),
        ("d @ git+ssh://example.com/d@v1", "d @ git+ssh://example.com/d@v1 is not name==version"),
        (f"./d {HASH}", "./d is not name==version"),
        (f"d-1.0-py3-none-any.whl {HASH}", "d-1.0-py3-none-any.whl is not name==version"),
        ("-e .", "-e . is not name==version"),
        ("--editable .", "--editable . is not name==version"),
        ("-r other.txt", "-r other.txt is not name==version"),
        ("-c other.txt", "-c other.txt is not name==version"),
        ("--index-url nowhere", "--index-url nowhere is not name==version"),
        ("  --no-binary :all:", "--no-binary :all: is not name==version"),
    ],
)
def test_a_line_that_pins_nothing_is_told(line: str, problem: str) -> None:
    lock = f"{line}\n"
    assert unpinned(lock) == [problem]
    assert f"dev: {problem}" in problems(PYPROJECT, locks(dev=lock + locks()["dev"]))
    assert f"dev: {problem}" in problems(PYPROJECT, locks(dev=locks()["dev"] + lock))


@pytest.mark.parametrize("line", ["d==1.0", "d.e_f-g==1!2.0.post1+cpu", "d==1.0 ; sys_platform != 'win32'"])
def test_a_pin_with_hashes_is_no_problem(line: str) -> None:
    assert unpinned(f"{line} \\\n    {HASH} \\\n    {HASH}\n    # via a\n") == []
