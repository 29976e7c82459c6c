"""The ACL file of Redis for relay and gateway, made of users.acl.template beside this file.

    RELAY_PASSWORD=... GATEWAY_PASSWORD=... [OPERATOR_PASSWORD=...] [REDIS_PREFIX=notify] \\
        python deploy/redis/make_acl.py > users.acl

What it prints has the hashes of the passwords, not themselves. Exit code 2: a password is missing, or too
easy to guess. Needs Python only.
"""

import hashlib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

OPTIONAL = ("operator",)
LEAST_CHARACTERS = 20
"""Redis takes thousands of guesses a second. `openssl rand -hex 32` gives 64."""


class NoAcl(Exception):
    """Its text is one line that says what is wrong with which variable, never a password."""


def render(template: str, env: Mapping[str, str]) -> str:
    """An ACL file. `env` has the passwords, as above. Raises NoAcl."""
    # It is to be taken as it is, not as a pattern.
    prefix = re.sub(r"([*?\[\]\\])", r"\\\1", env.get("REDIS_PREFIX") or "notify")
    lines, passwords = [], {}
    for user, rules in _users(template):
        if "PASSWORD" in rules:
            name = f"{user.upper()}_PASSWORD"
            password = env.get(name) or ""
            if not password and user in OPTIONAL:
                continue
            if len(password) < LEAST_CHARACTERS:
                raise NoAcl(
                    f"{name}: takes {LEAST_CHARACTERS} characters or more, for example of: openssl rand -hex 32"
                )
            if password in passwords:
                raise NoAcl(f"{name}: is that of {passwords[password]}, too")
            passwords[password] = user
            rules = rules.replace("PASSWORD", f"#{hashlib.sha256(password.encode()).hexdigest()}")
        lines.append(f"user {user} {rules.replace('PREFIX', prefix)}\n")
    return "".join(lines)


def _users(template: str) -> list[tuple[str, str]]:
    """Each user of a template with the rules, in one line."""
    users: list[tuple[str, str]] = []
    for line in template.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] == "user":
            users.append((words[1], " ".join(words[2:])))
        else:
            user, rules = users.pop()
            users.append((user, " ".join([rules, *words])))
    return users


def main() -> int:
    template = Path(__file__).with_name("users.acl.template").read_text()
    try:
        sys.stdout.write(render(template, os.environ))
    except NoAcl as why:
        sys.stderr.write(f"{why}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
