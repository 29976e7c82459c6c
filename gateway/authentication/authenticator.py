"""A token judged by the keys and the cut-offs of now."""

import asyncio
import time
from http import HTTPStatus

from gateway.admission.refusal import Refusal, spread_ms, unavailable
from gateway.authentication.expiries import Expiries
from gateway.authentication.keyring import Keyring
from gateway.authentication.provider import KeyProvider
from gateway.authentication.revocations import Revocations
from gateway.authentication.token import BadToken, Claims, TokenRules, UnknownKey, read_token
from gateway.close_codes import CloseCode
from gateway.settings import AuthenticationSettings
from shared.links import Links
from shared.settings import RedisSettings

Later = asyncio.Future[None]
"""Done when the same token may be judged anew."""


class Authenticator:
    """Tells who sent a token. The keys are `keyring`, or the provider's if there is one."""

    def __init__(self, rules: TokenRules, keys: Keyring | KeyProvider, revocations: Revocations) -> None:
        self._rules = rules
        self._keys = keys
        self.revocations = revocations
        self.expiries = Expiries(time.time())

    async def run(self) -> None:
        """Keep keys and cut-offs as they are now, until cancelled."""
        parts = [self.revocations.run()]
        if isinstance(self._keys, KeyProvider):
            parts.append(self._keys.run())
        async with asyncio.TaskGroup() as tasks:
            for part in parts:
                tasks.create_task(part)

    def authenticate(self, token: bytes) -> Claims | Refusal | Later:
        """Who sent a token; or why it is refused; or, for one that is signed with a key not known
        yet, when to ask again. Does no I/O and never raises for a token, whatever it is."""
        provider = self._keys if isinstance(self._keys, KeyProvider) else None
        keyring = self._keys if isinstance(self._keys, Keyring) else self._keys.keyring
        try:
            claims = read_token(token, keyring, self._rules)
        except UnknownKey as unknown:
            if provider is None or provider.has_not(unknown.key_id):
                return refused_token("is signed with a key that is not known here")
            if (answer := provider.ask(unknown.key_id)) is not None:
                return answer
            # Perhaps it is a new key: a client is told for good only what is known for good.
            away = "the identity provider is away" if provider.is_away else "it cannot be asked again yet"
            return unavailable(f"The token's key is not known, and {away}; connect again.", spread_ms())
        except BadToken as bad:
            return refused_token(str(bad))
        return self._refuse_revoked(claims) or claims

    def is_revoked(self, claims: Claims) -> bool:
        return self.revocations.cutoffs.refuses(claims.user_id, claims.issued_at)

    def _refuse_revoked(self, claims: Claims) -> Refusal | None:
        if self.is_revoked(claims):
            return revoked_token()
        return None


def make_authenticator(settings: AuthenticationSettings, redis: RedisSettings, links: Links) -> Authenticator | None:
    """As the settings say; None unless AUTH_MODE=jwt. Within an event loop."""
    if settings.auth_mode != "jwt":
        return None
    keys: Keyring | KeyProvider | None = settings.keyring
    if keys is None:
        assert settings.jwt_jwks_url is not None
        keys = KeyProvider(settings.jwt_jwks_url)
    return Authenticator(settings.token_rules, keys, Revocations(redis, links, settings.jwt_max_age_days))


def revoked_token() -> Refusal:
    return refused_token("was revoked; log in again")


def refused_token(what: str) -> Refusal:
    """401, in the words of RFC 6750."""
    return Refusal(
        HTTPStatus.UNAUTHORIZED,
        "unauthorized",
        f"The token {what}.",
        CloseCode.UNAUTHORIZED,
        (("WWW-Authenticate", 'Bearer error="invalid_token"'),),
    )
