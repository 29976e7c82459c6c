"""scripts/lock.py: what it finds wrong with locks, and with what the code imports."""

from importlib.metadata import packages_distributions

import pytest

from scripts.lock import EXTRAS, FOLDER, ROOT, pins, problems, python_files, undeclared, unpinned

PYPROJECT = """
[project]
name = "it"
dependencies = ["a>=1,<2"]
[project.optional-dependencies]
tracing = []
demo = ["b==2.*"]
dev = ["it[demo]", "c>=3"]
[tool.pytest.ini_options]
pythonpath = [".", "tests/unit"]
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


def test_the_code_in_the_repository_imports_what_is_declared() -> None:
    sources = python_files()
    assert {"gateway/door.py", "demo/stack.py", "scripts/lock.py", "tests/unit/test_lock.py"} <= set(sources)
    assert undeclared((ROOT / "pyproject.toml").read_text(), sources, packages_distributions()) == []


# `a` brings the modules `a` and `a_more`; `t` is only there because `a` needs it.
PROVIDERS = {"a": ["A"], "a_more": ["other", "a"], "b": ["b"], "c": ["c"], "t": ["t"]}
OWN = dict.fromkeys(["gateway/app.py", "shared/keys.py", "demo/live.py", "scripts/lock.py", "tests/unit/helper.py"], "")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("gateway/it.py", "import os, a.part, shared.keys\nfrom a_more import x\nfrom . import b\nfrom .c import d"),
        ("demo/it.py", "import a, b, gateway.app"),
        ("tests/unit/it.py", "import a, b, c, demo, gateway, helper, scripts.lock"),
        ("bench/it.py", "import a, b, c"),
    ],
)
def test_what_is_declared_may_be_imported(file: str, text: str) -> None:
    assert undeclared(PYPROJECT, {**OWN, file: text}, PROVIDERS) == []


@pytest.mark.parametrize(
    ("file", "text", "module", "lock"),
    [
        ("gateway/it.py", "import os, a, t", "t", "runtime"),
        ("relay/it.py", "from b.part import x", "b", "runtime"),
        ("shared/deep/it.py", "def f():\n    import c", "c", "runtime"),
        ("deploy/it.py", "import unknown", "unknown", "runtime"),
        ("gateway/it.py", "import demo.live", "demo", "runtime"),
        ("gateway/it.py", "import helper", "helper", "runtime"),
        ("demo/it.py", "import c", "c", "demo"),
        ("demo/it.py", "from scripts import lock", "scripts", "demo"),
        ("scripts/it.py", "import t", "t", "dev"),
        ("tests/unit/it.py", "from t import x", "t", "dev"),
        ("bench/it.py", "import t as b", "t", "dev"),
    ],
)
def test_what_is_not_declared_is_told(file: str, text: str, module: str, lock: str) -> None:
    problem = f"{file} imports {module}, which is not declared for {lock}"
    assert undeclared(PYPROJECT, {**OWN, file: text}, PROVIDERS) == [problem]
