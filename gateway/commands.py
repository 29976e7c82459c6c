"""The command line of `python -m gateway`, and its `token` and `revoke`: tokens by hand."""

import argparse
import asyncio
import sys
import time
from datetime import UTC, datetime

import jwt

from gateway import admin_command
from gateway.authentication.revocations import Revocations
from gateway.settings import AuthenticationSettings
from shared.errors import InvalidUserId, NotifyError, SettingsError
from shared.links import Links
from shared.runner import program
from shared.settings import RedisSettings
from shared.users import validate_user_id
from shared.version import VERSION


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog=program("gateway"),
        description="Without a command: run one gateway replica until SIGTERM. "
        "Settings are environment variables; .env.example has each with its default.",
    )
    top.add_argument("--version", action="version", version=f"bloasis-notification {VERSION}")
    commands = top.add_subparsers(dest="command", title="commands", metavar="")
    token = commands.add_parser(
        "token",
        help="make a token to try, signed with JWT_SECRET",
        description="Print a token for a user, signed with JWT_SECRET (HS256), with the JWT_ISSUER and JWT_AUDIENCE "
        "that are set. For trying things out: real tokens come from whoever lets users log in.",
    )
    token.add_argument("user", help="whose token")
    token.add_argument("--seconds", type=int, default=3_600, help="until it expires (3600)")
    revoke = commands.add_parser(
        "revoke",
        help="refuse a user's tokens that were issued until now",
        description="Refuse the tokens of a user that were issued until now, on all replicas, within a second or two; "
        "connections that have one are closed with 4500. Tokens issued from the next second on are taken.",
    )
    revoke.add_argument("user", help="whose tokens")
    admin_command.add_options(
        commands.add_parser(
            "admin",
            help=admin_command.SUMMARY,
            description=admin_command.DESCRIPTION,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    return top


def token(settings: AuthenticationSettings, user: str, seconds: int) -> str:
    """A token for `user` that ends in so many seconds. Raises SettingsError without a JWT_SECRET."""
    if settings.jwt_secret is None:
        raise SettingsError("a token is signed with JWT_SECRET (and AUTH_MODE=jwt); it is not set")
    now = int(time.time())
    claims: dict[str, object] = {settings.jwt_user_claim: user, "iat": now, "exp": now + seconds}
    if settings.jwt_issuer is not None:
        claims["iss"] = settings.jwt_issuer
    if settings.jwt_audience:
        claims["aud"] = settings.jwt_audience[0]
    return jwt.encode(claims, settings.jwt_secret.get_secret_value(), "HS256")


async def revoke(redis: RedisSettings, authentication: AuthenticationSettings, user: str) -> float:
    """Refuse the user's tokens issued until now. Gives the cut-off, Unix seconds. Raises RedisError."""
    links = Links(redis, "notification-revoke")
    try:
        return await Revocations(redis, links, authentication.jwt_max_age_days).revoke(user)
    finally:
        links.close()


def run(options: argparse.Namespace, authentication: AuthenticationSettings, redis: RedisSettings) -> int:
    """Do what was asked and print it. Gives the exit code: 0 done, 1 failed, 2 it was asked wrongly."""
    try:
        user = validate_user_id(options.user)
        if options.command == "token":
            print(token(authentication, user, options.seconds))  # noqa: T201
        else:
            until = datetime.fromtimestamp(asyncio.run(revoke(redis, authentication, user)), UTC)
            print(f"tokens of {user} issued until {until:%Y-%m-%d %H:%M:%S} UTC are refused")  # noqa: T201
    except (InvalidUserId, SettingsError) as error:
        what = f"the user id is {error}" if isinstance(error, InvalidUserId) else str(error)
        sys.stderr.write(f"gateway: {what}\n")
        return 2
    except NotifyError as error:
        sys.stderr.write(f"gateway: not revoked: {error}\n")
        return 1
    return 0
