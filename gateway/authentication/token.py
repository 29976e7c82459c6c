"""A token's signature and claims (RFC 7515, RFC 7519). Pure, but for the time of day.

Signatures are verified by PyJWT's algorithms. Its `decode` takes longer than all the rest of a handshake,
so a token is taken apart here; a test holds that against `decode` (tests/unit/test_authentication.py).
"""

import re
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import UNSET

from gateway.authentication.keyring import Keyring
from shared.errors import InvalidUserId
from shared.users import validate_user_id

MAX_TOKEN_BYTES: Final = 8_192

MAX_TIME: Final = 253_402_300_799
"""The last second of the year 9999: whatever a token says, times stay comparable."""


class BadToken(Exception):
    """A token that is refused. Its text is for the client and never repeats the token."""


class UnknownKey(Exception):
    """Signed, as it says, with a key that is not in the ring: perhaps it is a new one. `key_id` is
    what names it, with the algorithm."""

    def __init__(self, key_id: str | None, algorithm: str) -> None:
        super().__init__()
        self.key_id = key_id, algorithm


class Claims(NamedTuple):
    """What a verified token says. Times are Unix seconds."""

    user_id: str
    expires_at: float
    issued_at: float | None


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What is asked of a token, beyond its signature and `exp`."""

    issuer: str | None = None
    audience: tuple[str, ...] = ()
    """One of these has to be in `aud`; with none of them a token that has `aud` is for somebody else."""
    user_claim: str = "sub"
    leeway_seconds: float = 5
    """By how much clocks may differ."""
    max_age_days: int = 30
    """Since a token was issued, if it says when."""


class _Header(msgspec.Struct):
    """Of RFC 7515 section 4.1, what is looked at."""

    alg: str
    kid: str = ""
    crit: Any = UNSET
    b64: Any = UNSET


# RFC 7515 section 7.1. The characters are looked at here: Python's decoder leaves out what it does not know.
_COMPACT: Final = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")


def read_token(token: bytes, keyring: Keyring, rules: TokenRules) -> Claims:
    """Verify a token now. Raises BadToken, or UnknownKey."""
    if len(token) > MAX_TOKEN_BYTES:
        raise BadToken(f"is longer than {MAX_TOKEN_BYTES} bytes")
    parts = _COMPACT.fullmatch(token)
    if parts is None:
        raise BadToken("is malformed")
    try:
        header = msgspec.json.decode(_decoded(parts[1]), type=_Header)
        _verify(header, token[: parts.end(2)], _decoded(parts[3]), keyring)
        claims = msgspec.json.decode(_decoded(parts[2]), type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError):  # hostile JSON
        raise BadToken("is malformed") from None
    return _read_claims(claims, rules, time.time())


def _decoded(segment: bytes) -> bytes:
    """Of base64url without padding, in the one form that it has (RFC 4648 section 3.5). Raises ValueError."""
    decoded = urlsafe_b64decode(segment + b"=" * (-len(segment) % 4))
    if urlsafe_b64encode(decoded).rstrip(b"=") != segment:
        raise ValueError("not base64url")
    return decoded


def _verify(header: _Header, signed: bytes, signature: bytes, keyring: Keyring) -> None:
    """Nothing else of a token is looked at before. Raises BadToken, or UnknownKey."""
    if header.crit is not UNSET or header.b64 is not UNSET:
        raise BadToken("has an extension (crit, b64), and none is known here")
    key_id = header.kid or None
    keys = keyring.find(key_id, header.alg)
    if not keys:
        raise UnknownKey(key_id, header.alg)
    keys = [key for key in keys if key.algorithm == header.alg]
    if not keys:
        raise BadToken("is signed with another algorithm than its key is for")
    if not any(key.verifies(signed, signature) for key in keys):
        raise BadToken("has a wrong signature")


def _read_claims(claims: Mapping[str, Any], rules: TokenRules, now: float) -> Claims:
    """RFC 7519 section 4.1. Raises BadToken."""
    if claims.get("exp") is None:
        raise BadToken("lacks the claim exp")
    expires_at = _time(claims, "exp")
    issued_at = _time(claims, "iat") if "iat" in claims else None
    not_before = _time(claims, "nbf") if "nbf" in claims else 0
    if max(issued_at or 0, not_before) > now + rules.leeway_seconds:
        raise BadToken("is not valid yet")
    if expires_at <= now - rules.leeway_seconds:
        raise BadToken("has expired; get a fresh one")
    if issued_at is not None and issued_at < now - rules.max_age_days * 86_400:
        raise BadToken(f"was issued more than {rules.max_age_days} days ago; get a fresh one")
    if rules.issuer is not None and _present(claims, "iss") != rules.issuer:
        raise BadToken("is from another issuer")
    if rules.audience or claims.get("aud"):
        audience = _present(claims, "aud")
        audiences = audience if isinstance(audience, list) else [audience]
        if not all(isinstance(one, str) for one in audiences) or set(rules.audience).isdisjoint(audiences):
            raise BadToken("is for another audience")
    return Claims(_user_id(claims, rules.user_claim), expires_at, issued_at)


def _present(claims: Mapping[str, Any], name: str) -> Any:
    if name not in claims:
        raise BadToken(f"lacks the claim {name}")
    return claims[name]


def _user_id(claims: Mapping[str, Any], name: str) -> str:
    if name not in claims:
        raise BadToken(f"lacks the claim {name}, which says whose it is")
    try:
        return validate_user_id(claims[name])
    except InvalidUserId as error:
        raise BadToken(f"has a claim {name} that is no user id: it is {error}") from None


def _time(claims: Mapping[str, Any], name: str) -> float:
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadToken(f"has a claim {name} that is not a time")
    return float(max(0, min(value, MAX_TIME)))  # before it is a float: an int may be too large for one
