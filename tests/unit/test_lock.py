"""scripts/lock.py: what it finds wrong with locks."""

import pytest

from scripts.lock import EXTRAS, FOLDER, ROOT, pins, problems

PYPROJECT = """
[project]
name = "it"
dependencies = ["a>=1,<2"]
[project.optional-dependencies]
demo = ["b==2.*"]
dev = ["it[demo]", "c>=3"]
"""


def entry(name: str, version: str) -> str:
    return f"{name}=={version} \\\n    --hash=sha256:00\n    # via it (pyproject.toml)\n"


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
        (entry("a", "1.5") + entry("b", "2.1") + "c==3.0\n", "dev: c has no hash"),
        (locks()["dev"] + "--index-url nowhere\n", "dev: names an address"),
        (locks()["dev"] + "d @ https://example.com/d.whl\n", "dev: names an address"),
    ],
)
def test_a_bad_lock_is_told(dev: str, problem: str) -> None:
    assert problem in problems(PYPROJECT, locks(dev=dev))
