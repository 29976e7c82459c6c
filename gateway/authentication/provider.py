"""The keys of an identity provider, fetched from the one address that the settings name (JWKS).

Keys that are known stay in use while the provider is away. It is asked now and then, and when a
token names a key that is not known; then at most once in RETRY_SECONDS, however many ask.
"""

import asyncio
import contextlib
import random
from typing import Final

import aiohttp

from gateway.authentication.keyring import NO_KEYS, Keyring, keyring_of_jwks
from shared.logging import get_logger

REFRESH_SECONDS: Final = 300
"""Between fetches; a key that the provider has withdrawn is taken no longer than that."""

RETRY_SECONDS: Final = 10
"""The least between two fetches."""

FETCH_SECONDS: Final = 5
MAX_WAITING: Final = 500
"""Who waits for a fetch; the others are told to come again. All of them are judged anew in one go, which is
to take no longer than some 30 ms."""

KeyId = tuple[str | None, str]
"""How a token names its key: id and algorithm."""

MAX_DOCUMENT_BYTES: Final = 256 * 1024

log = get_logger("gateway.authentication")


class KeyProvider:
    """The provider's keys. `run` fetches them, until cancelled; for one event loop."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._asked = asyncio.Event()
        self._answer: asyncio.Future[None] | None = None
        """Of the fetch under way, or about to begin."""
        self._may_ask_at = 0.0
        self._is_fetching = False
        self._waiting = 0
        self._asked_for: set[KeyId] = set()
        """Keys that somebody asked for before the fetch began."""
        self._missing: set[KeyId] = set()
        """Those of them that the last fetch should have brought."""
        self.keyring: Keyring = NO_KEYS
        self.is_away = True
        """The last fetch failed, or there was none."""
        self.failures = 0

    def ask(self, key_id: KeyId) -> asyncio.Future[None] | None:
        """Have the keys fetched, since this one is not known: done when they were, or could not be. None
        when they were a moment ago, or too many wait. Whoever waits bounds the waiting itself."""
        if self._answer is None:
            loop = asyncio.get_running_loop()
            if loop.time() < self._may_ask_at:
                return None
            self._answer = loop.create_future()
            self._asked.set()
        if self._waiting >= MAX_WAITING:
            return None
        self._waiting += 1
        if not self._is_fetching:
            self._asked_for.add(key_id)
        return self._answer

    def has_not(self, key_id: KeyId) -> bool:
        """Whether the provider was asked for this key, and does not have it."""
        return key_id in self._missing

    async def run(self) -> None:
        # One connection at a time, kept by nobody: a fetch is rare.
        connector = aiohttp.TCPConnector(limit=1, force_close=True)
        async with aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=FETCH_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
        ) as session:
            while True:
                self._is_fetching = True
                try:
                    await self._fetch(session)
                finally:
                    self._answered()
                # Not all replicas together.
                pause_seconds = RETRY_SECONDS if self.is_away else REFRESH_SECONDS * random.uniform(0.8, 1)  # noqa: S311
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_seconds):
                        await self._asked.wait()

    def _answered(self) -> None:
        self._is_fetching = False
        self._waiting = 0
        self._missing, self._asked_for = set() if self.is_away else self._asked_for, set()
        self._may_ask_at = asyncio.get_running_loop().time() + RETRY_SECONDS
        self._asked.clear()
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_result(None)

    async def _fetch(self, session: aiohttp.ClientSession) -> None:
        try:
            keyring = keyring_of_jwks(await self._read(session))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            self.failures += 1
            self.is_away = True
            log.warning("the identity provider gives no keys", error=_reason(error), known_keys=len(self.keyring))
            return
        if self.is_away:
            log.info("keys of the identity provider are there", count=len(keyring))
        self.is_away = False
        self.keyring = keyring

    async def _read(self, session: aiohttp.ClientSession) -> bytes:
        # A redirect would lead to an address that nobody set.
        async with session.get(self._url, allow_redirects=False) as response:
            if response.status != 200:
                raise ValueError(f"it answered {response.status}, not 200")
            document = bytearray()
            async for part in response.content.iter_chunked(16 * 1024):
                document += part
                if len(document) > MAX_DOCUMENT_BYTES:
                    raise ValueError(f"its key set is larger than {MAX_DOCUMENT_BYTES} bytes")
            return bytes(document)


def _reason(error: Exception) -> str:
    """What is logged: never what came from there, nor the address with its query, both of which aiohttp's
    texts repeat."""
    is_ours = isinstance(error, aiohttp.ClientConnectorError) or not isinstance(error, aiohttp.ClientError)
    return (is_ours and str(error)) or type(error).__name__
