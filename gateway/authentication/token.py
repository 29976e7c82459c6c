"""A token's signature and claims (RFC 7515, RFC 7519), by PyJWT. Pure, but for the time of day."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import jwt
import msgspec
from jwt import exceptions
from jwt.utils import base64url_decode

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
    kid: str | None = None
    crit: Any = msgspec.UNSET


_REASONS: Final[Mapping[type[exceptions.PyJWTError], str]] = {
    exceptions.ExpiredSignatureError: "has expired; get a fresh one",
    exceptions.ImmatureSignatureError: "is not valid yet",
    exceptions.InvalidIssuerError: "is from another issuer",
    exceptions.InvalidAudienceError: "is for another audience",
    exceptions.InvalidSignatureError: "has a wrong signature",
    exceptions.InvalidAlgorithmError: "is signed with another algorithm than its key is for",
}


def read_token(token: bytes, keyring: Keyring, rules: TokenRules) -> Claims:
    """Verify a token now. Raises BadToken, or UnknownKey."""
    if len(token) > MAX_TOKEN_BYTES:
        raise BadToken(f"is longer than {MAX_TOKEN_BYTES} bytes")
    try:
        key_id, algorithm = _named_key(token)
        key = keyring.find(key_id, algorithm)
        if key is None:
            raise UnknownKey(key_id, algorithm)
        claims = jwt.decode(
            token,
            key.key,
            algorithms=[key.algorithm],
            issuer=rules.issuer,
            audience=rules.audience or None,
            leeway=rules.leeway_seconds,
            # Whose it is is read below, from whichever claim it is in; nothing here depends on jti.
            options={"require": ["exp"], "verify_sub": False, "verify_jti": False},
        )
    except exceptions.MissingRequiredClaimError as error:
        raise BadToken(f"lacks the claim {error.claim}") from None
    except exceptions.PyJWTError as error:
        raise BadToken(_REASONS.get(type(error), "is malformed")) from None
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError):  # hostile JSON
        raise BadToken("is malformed") from None
    issued_at = None if claims.get("iat") is None else _time(claims, "iat")
    if issued_at is not None and issued_at < time.time() - rules.max_age_days * 86_400:
        raise BadToken(f"was issued more than {rules.max_age_days} days ago; get a fresh one")
    return Claims(_user_id(claims, rules.user_claim), _time(claims, "exp"), issued_at)


def _named_key(token: bytes) -> tuple[str | None, str]:
    """Which key a token says it is signed with, and how. All that is looked at before it is verified;
    PyJWT, which reads the header anew, takes five times as long for this. Raises ValueError, too."""
    header = msgspec.json.decode(base64url_decode(token.partition(b".")[0]), type=_Header)
    if header.crit is not msgspec.UNSET:
        raise BadToken("has a critical extension (crit), and none is known here")
    return header.kid, header.alg


def _user_id(claims: Mapping[str, Any], name: str) -> str:
    if name not in claims:
        raise BadToken(f"lacks the claim {name}, which says whose it is")
    try:
        return validate_user_id(claims[name])
    except InvalidUserId as error:
        raise BadToken(f"has a claim {name} that is no user id: it is {error}") from None


def _time(claims: Mapping[str, Any], name: str) -> float:
    """PyJWT takes text for a number, too, and a boolean."""
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:  # NaN
        raise BadToken(f"has a claim {name} that is not a time")
    return float(max(0, min(value, MAX_TIME)))  # before it is a float: an int may be too large for one
