"""deploy/redis: from a template with comments to the ACL file, and whether it has all that scripts call."""

import re
import subprocess
import sys
from types import ModuleType

import pytest
from harness.secured_redis import FOLDER, load_make_acl

from demo.process import ROOT

TEMPLATE = (FOLDER / "users.acl.template").read_text()
ENV = {"RELAY_PASSWORD": "r" * 20, "GATEWAY_PASSWORD": "g" * 20}
_CALL = re.compile(r"redis\.p?call\('([A-Z]+)'(?:, '([A-Z]+)')?")


@pytest.fixture(scope="module")
def make_acl() -> ModuleType:
    return load_make_acl()


def test_each_user_is_one_line_without_a_password(make_acl: ModuleType) -> None:
    lines = make_acl.render(TEMPLATE, ENV).splitlines()
    assert [line.split()[:2] for line in lines] == [["user", "default"], ["user", "relay"], ["user", "gateway"]]
    assert lines[0] == "user default off"
    for line in lines[1:]:
        assert re.match(r"user [a-z]+ on #[0-9a-f]{64} ", line), line
        assert not re.search("PASSWORD|PREFIX|rrrr|gggg| # ", line), line
        assert "~notify:" in line
        assert not re.search(r"[~&]\*|\+@|allkeys|allchannels|nopass", line), line


def test_the_operator_is_there_with_a_password(make_acl: ModuleType) -> None:
    text = make_acl.render(TEMPLATE, {**ENV, "OPERATOR_PASSWORD": "o" * 20})
    assert re.search(r"^user operator on #[0-9a-f]{64} ~\* &\* \+@all$", text, re.MULTILINE)


def test_a_prefix_is_no_pattern(make_acl: ModuleType) -> None:
    text = make_acl.render(TEMPLATE, {**ENV, "REDIS_PREFIX": "a*[b]"})
    assert r" ~a\*\[b\]:layout " in text
    assert "notify" not in text


@pytest.mark.parametrize(
    ("env", "why"),
    [
        ({"RELAY_PASSWORD": ""}, "RELAY_PASSWORD: takes 20 characters or more"),
        ({"GATEWAY_PASSWORD": "short"}, "GATEWAY_PASSWORD: takes 20 characters or more"),
        ({"OPERATOR_PASSWORD": "short"}, "OPERATOR_PASSWORD: takes 20 characters or more"),
        ({"GATEWAY_PASSWORD": "r" * 20}, "GATEWAY_PASSWORD: is that of relay, too"),
    ],
)
def test_a_password_that_is_none_is_refused(make_acl: ModuleType, env: dict[str, str], why: str) -> None:
    with pytest.raises(make_acl.NoAcl, match=why) as raised:
        make_acl.render(TEMPLATE, {**ENV, **env})
    assert "short" not in str(raised.value)


@pytest.mark.parametrize(("env", "code"), [(ENV, 0), ({}, 2)])
def test_as_a_command(env: dict[str, str], code: int) -> None:
    command = [sys.executable, "-I", str(FOLDER / "make_acl.py")]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert ended.returncode == code
    assert ended.stdout.count("\n") == (3 if code == 0 else 0)
    assert ended.stderr.count("\n") == (0 if code == 0 else 1)


@pytest.mark.parametrize("service", ["relay", "gateway"])
def test_it_allows_what_the_scripts_call(make_acl: ModuleType, service: str) -> None:
    """Who adds a call to a script adds a permission to deploy/redis/users.acl.template."""
    (line,) = (line for line in make_acl.render(TEMPLATE, ENV).splitlines() if line.startswith(f"user {service} "))
    allowed = set(re.findall(r"\+([a-z|]+)", line))
    calls = {call for script in (ROOT / service).rglob("*.lua") for call in _CALL.findall(script.read_text())}
    assert calls
    for command, subcommand in calls:
        names = {command.lower(), f"{command}|{subcommand}".lower()}
        assert names & allowed, f"{service} calls {command} {subcommand}"
