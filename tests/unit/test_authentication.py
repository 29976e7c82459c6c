"""Keys, tokens, cut-offs and ends: what is taken for whose, and until when."""

import asyncio
import contextlib
import hmac
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from harness.tokens import AUDIENCE, ISSUER, Provider, claims, forged, jwk, pem, rsa_key, token
from harness.waiting import eventually
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gateway.authentication import provider as provider_module
from gateway.authentication.expiries import Expiries
from gateway.authentication.keyring import (
    MAX_KEYS,
    MAX_SAME,
    Keyring,
    keyring_of_jwks,
    keyring_of_public_key,
    keyring_of_secret,
)
from gateway.authentication.provider import MAX_WAITING, KeyProvider
from gateway.authentication.revocations import Cutoffs
from gateway.authentication.token import MAX_TIME, MAX_TOKEN_BYTES, BadToken, Claims, TokenRules, UnknownKey, read_token

SECRET = "s" * 32
_NOW = int(time.time())
RULES = TokenRules(ISSUER, (AUDIENCE,))
RSA, EC, ED = rsa_key(), ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()


def read(sent: str | bytes, ring: Keyring | None = None, rules: TokenRules = RULES) -> Claims:
    encoded = sent.encode() if isinstance(sent, str) else sent
    return read_token(encoded, ring or keyring_of_secret(SECRET), rules)


# keyring


def test_a_secret_has_a_least_length() -> None:
    with pytest.raises(ValueError, match="at least 32 bytes, got 31") as raised:
        keyring_of_secret("x" * 31)
    assert "xxx" not in str(raised.value)


def test_a_public_key_says_its_one_algorithm() -> None:
    for key, algorithm in ((RSA, "RS256"), (EC, "ES256"), (ED, "EdDSA")):
        for text in (pem(key), pem(key).replace("\n", "\\n")):
            ring = keyring_of_public_key(text)
            assert [key.algorithm for key in ring.find("any id", "HS256")] == [algorithm]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        pem(RSA)[:80],
        pem(ec.generate_private_key(ec.SECP384R1())),
        pem(rsa_key(1024)),
        RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
    ],
    ids=["empty", "nonsense", "cut", "P-384", "RSA-1024", "private"],
)
def test_other_keys_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="takes "):
        keyring_of_public_key(text)


def test_of_a_key_set_what_cannot_be_used_is_left_out() -> None:
    keys = [
        jwk(RSA, kid="rsa"),
        jwk(EC, kid="ec"),
        jwk(ED, kid="ed"),
        jwk(RSA, kid="enc", use="enc"),
        jwk(RSA, kid="sign", key_ops=["sign"]),
        jwk(RSA, kid="alg", alg="PS256"),
        jwk(rsa_key(1024), kid="weak"),
        {"kty": "oct", "kid": "oct", "k": "c2VjcmV0"},
        {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"},
        7,
        {},
        None,
    ]
    ring = keyring_of_jwks(json.dumps({"keys": keys}).encode())
    assert len(ring) == 3
    for key_id, algorithm in (("rsa", "RS256"), ("ec", "ES256"), ("ed", "EdDSA")):
        assert [key.algorithm for key in ring.find(key_id, "none")] == [algorithm]
        assert ring.find(None, algorithm) == ring.find(key_id, algorithm)
    assert not ring.find("oct", "HS256")
    assert not ring.find(None, "HS256")


def test_keys_without_an_id_or_with_the_same_are_all_tried() -> None:
    """As in a rotation."""
    other = rsa_key()
    for named in ({}, {"kid": "a"}):
        ring = keyring_of_jwks(
            json.dumps({"keys": [jwk(RSA, **named), jwk(other, **named), jwk(EC, **named)]}).encode()
        )
        for key in (RSA, other, EC):
            assert read(token(key, **named), ring).user_id == "ann"
        with pytest.raises(BadToken, match="wrong signature"):
            read(token(rsa_key(), **named), ring)
        with pytest.raises(BadToken, match="another algorithm"):
            read(token(SECRET, **named), ring)


def test_more_keys_than_may_be_tried_are_refused() -> None:
    keys = [jwk(ed25519.Ed25519PrivateKey.generate()) for _ in range(MAX_SAME + 1)]
    with pytest.raises(ValueError, match="more than 4 keys with the same id"):
        keyring_of_jwks(json.dumps({"keys": keys}).encode())


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{",
        b"[]",
        b'{"keys":{}}',
        b'{"keys":[]}',
        b"[" * 100_000,
        json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}).encode(),
        json.dumps({"keys": [{}] * (MAX_KEYS + 1)}).encode(),
    ],
)
def test_what_is_no_key_set_is_refused(document: bytes) -> None:
    with pytest.raises(ValueError, match="key"):
        keyring_of_jwks(document)


# token


def test_a_good_token_says_whose_it_is_and_until_when() -> None:
    content = claims("ann")
    assert read(token(SECRET, content)) == Claims("ann", content["exp"], content["iat"])
    assert read(token(SECRET, claims("ann", iat=None))).issued_at is None
    other = TokenRules(user_claim="user")
    assert read(token(SECRET, claims(None, iss=None, aud=None) | {"user": 7}), rules=other).user_id == "7"
    for key in (RSA, EC, ED):
        assert read(token(key), keyring_of_public_key(pem(key))).user_id == "ann"


def test_clocks_may_differ_a_little() -> None:
    now = int(time.time())
    assert read(token(SECRET, claims(exp=now - 2, nbf=now + 2, iat=now + 2)))
    with pytest.raises(BadToken, match="expired"):
        read(token(SECRET, claims(exp=now - 2)), rules=TokenRules(ISSUER, (AUDIENCE,), leeway_seconds=0))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        # Also when it is long since this was imported.
        ({"nbf": _NOW + 86_400}, "not valid yet"),
        ({"iat": _NOW + 86_400}, "not valid yet"),
        ({"exp": True}, "not a time"),
        ({"nbf": False}, "not a time"),
        ({"iat": "1"}, "not a time"),
        ({"iss": "other"}, "another issuer"),
        ({"iss": None}, "lacks the claim iss"),
        ({"aud": ["other"]}, "another audience"),
        ({"aud": None}, "lacks the claim aud"),
    ],
)
def test_claims_that_do_not_fit_are_refused_with_the_reason(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(BadToken, match=why):
        read(token(SECRET, claims(**changes)))


def test_a_token_with_an_audience_is_for_nobody_who_has_none() -> None:
    with pytest.raises(BadToken, match="audience"):
        read(token(SECRET), rules=TokenRules(ISSUER))


def test_an_unknown_key_is_told_apart() -> None:
    ring = keyring_of_jwks(json.dumps({"keys": [jwk(RSA, kid="a")]}).encode())
    with pytest.raises(UnknownKey) as raised:
        read(token(RSA, None, kid="b"), ring)
    assert raised.value.key_id == ("b", "RS256")
    assert read(token(RSA), ring)


@pytest.mark.parametrize("number", [1e308, 10**400, -1, float("inf"), float("nan")])
def test_no_time_is_too_strange(number: float) -> None:
    with pytest.raises(BadToken):
        read(forged({"alg": "HS256"}, claims(iat=number), secret=SECRET.encode()))
    sent = forged({"alg": "HS256"}, claims(exp=number), secret=SECRET.encode())
    with contextlib.suppress(BadToken):
        assert read(sent).expires_at < 1e12


@given(st.binary(max_size=300) | st.text(max_size=200).map(str.encode))
def test_whatever_is_sent_is_refused_without_repeating_it(sent: bytes) -> None:
    with pytest.raises(BadToken) as raised:
        read(sent)
    assert len(sent) < 12 or sent.decode(errors="replace") not in str(raised.value)


@given(st.data())
def test_no_byte_of_a_token_can_be_changed(data: Any) -> None:
    good = token(SECRET).encode()
    place = data.draw(st.integers(0, len(good) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != good[place]))
    with pytest.raises((BadToken, UnknownKey)):
        read(good[:place] + bytes([byte]) + good[place + 1 :])


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=3) | st.just("ann"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=3,
)
_GONE = object()
_TIMES = st.sampled_from([0, _NOW - 86_400, _NOW + 86_400, 2**80, -1, _NOW + 86_400.5]) | _JSON
_CLAIMS = {
    "exp": _TIMES,
    "iat": _TIMES,
    "nbf": _TIMES,
    "sub": st.just("bob") | _JSON,
    "iss": st.just("other") | _JSON,
    "aud": st.sampled_from([[AUDIENCE], ["b", AUDIENCE], [7, AUDIENCE], [[AUDIENCE]], [], "", AUDIENCE[:-1]]) | _JSON,
    "jti": _JSON,
}
_HEADER = {
    "alg": st.sampled_from(["none", "HS512", "RS256", ""]) | _JSON,
    "kid": _JSON,
    "crit": _JSON,
    "b64": _JSON,
    "typ": _JSON,
    "jku": _JSON,
}


def _changes(values: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Up to two of them, each gone or another."""
    names = st.lists(st.sampled_from(sorted(values)), max_size=2, unique=True)
    return names.flatmap(lambda names: st.fixed_dictionaries({name: st.just(_GONE) | values[name] for name in names}))


def _changed(good: dict[str, Any], changes: dict[str, Any]) -> bytes:
    content = {name: value for name, value in (good | changes).items() if value is not _GONE}
    return urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=")


_FORMS = [
    lambda part: part,
    lambda part: part + b"=" * (-len(part) % 4),
    lambda part: part[:-1] + bytes([part[-1] ^ 1]),
    lambda part: part[:2] + b"\n" + part[2:],
    lambda part: part.replace(b"-", b"+").replace(b"_", b"/"),
]


def test_what_is_taken_pyjwt_takes_too_and_reads_the_same() -> None:
    taken = 0

    @given(
        _changes(_CLAIMS),
        st.just({}) | _changes(_HEADER),
        st.integers(0, 9).flatmap(lambda n: st.tuples(*(st.sampled_from(_FORMS if n == 0 else _FORMS[:1]),) * 3)),
        st.integers(0, 9).map(lambda n: b"another secret" if n == 0 else SECRET.encode()),
        st.sampled_from([RULES, RULES, TokenRules(audience=("b", AUDIENCE)), TokenRules()]),
    )
    @settings(max_examples=1_500, deadline=None)
    def compare(
        content: dict[str, Any],
        header: dict[str, Any],
        forms: tuple[Callable[[bytes], bytes], ...],
        secret: bytes,
        rules: TokenRules,
    ) -> None:
        nonlocal taken
        signed = forms[0](_changed({"alg": "HS256"}, header)) + b"." + forms[1](_changed(claims(), content))
        signature = urlsafe_b64encode(hmac.digest(secret, signed, "sha256")).rstrip(b"=")
        sent = signed + b"." + forms[2](signature)
        try:
            found = read(sent, rules=rules)
        except (BadToken, UnknownKey):
            return
        taken += 1
        known = jwt.decode(
            sent,
            SECRET,
            algorithms=["HS256"],
            issuer=rules.issuer,
            audience=rules.audience or None,
            leeway=rules.leeway_seconds,
            options={"require": ["exp"], "verify_sub": False, "verify_jti": False},
        )
        issued_at = known.get("iat")
        assert found.user_id == str(known["sub"])
        assert found.expires_at == min(known["exp"], MAX_TIME)
        assert found.issued_at == (None if issued_at is None else max(0, issued_at))

    compare()
    assert taken > 150, "most of what is compared is refused"


def test_a_good_token_in_another_form_is_refused() -> None:
    """One token, one spelling: nothing that is kept by it, such as a cache's key, has two."""
    good = token(SECRET).encode()
    read(good)
    for form in _FORMS[1:]:
        parts = good.split(b".")
        for place in range(3):
            other = b".".join([*parts[:place], form(parts[place]), *parts[place + 1 :]])
            if other != good:
                with pytest.raises(BadToken):
                    read(other)


def test_the_longest_token() -> None:
    with pytest.raises(BadToken, match="longer than"):
        read(b"a" * (MAX_TOKEN_BYTES + 1))


# cut-offs


def test_a_cut_off_refuses_what_was_issued_until_then() -> None:
    cutoffs = Cutoffs()
    assert not cutoffs.refuses("ann", None)
    assert cutoffs.take([("ann", 100.0), ("bob", 50.0)]) == ["ann", "bob"]
    assert [cutoffs.refuses("ann", at) for at in (None, 99, 100, 100.5, 101)] == [True, True, True, False, False]
    assert not cutoffs.refuses("eve", 1)
    assert cutoffs.take([("ann", 90.0), ("ann", 100.0)]) == []
    assert cutoffs.take([("bob", 120.0)]) == ["bob"]
    assert (cutoffs.newest, cutoffs.newest_users) == (120.0, {"bob"})


def test_old_cut_offs_are_forgotten() -> None:
    cutoffs = Cutoffs()
    cutoffs.take([("ann", 100.0), ("bob", 200.0), ("eve", 200.0)])
    cutoffs.forget(100)
    assert (len(cutoffs), cutoffs.newest_users) == (2, {"bob", "eve"})
    cutoffs.forget(200)
    assert (len(cutoffs), cutoffs.newest, cutoffs.newest_users) == (0, 0.0, set())


# ends


class Ending:
    def __init__(self, expiries: Expiries) -> None:
        self.expires_at: int | None = None
        self.ended = 0
        self.then: Any = None
        self._expiries = expiries

    def expired(self) -> None:
        self.ended += 1
        if self.then is not None:
            self.then()


def test_ends_are_told_once_when_their_second_is_over() -> None:
    expiries = Expiries(1_000.0)
    one, two, gone = (Ending(expiries) for _ in range(3))
    for ending, at in ((one, 1_005.5), (two, 1_005.0), (gone, 1_005.0)):
        expiries.set(ending, at)
    expiries.cancel(gone)
    assert len(expiries) == 2
    for now in (1_005.9, 1_005.9, 1_006.0, 1_007.0):
        expiries.tick(now)
    assert (one.ended, two.ended, gone.ended, len(expiries)) == (1, 1, 0, 0)


def test_a_clock_that_jumps_ends_all_that_is_over_and_nothing_twice() -> None:
    expiries = Expiries(1_000.0)
    past, soon, late = (Ending(expiries) for _ in range(3))
    for ending, at in ((past, 10.0), (soon, 2_000.0), (late, 9e9)):
        expiries.set(ending, at)
    soon.then = lambda: expiries.set(soon, 5_000.0)
    expiries.tick(4_000.0)
    assert (past.ended, soon.ended, late.ended) == (1, 1, 0)
    expiries.tick(900.0)
    expiries.tick(5_001.0)
    assert (past.ended, soon.ended, late.ended) == (1, 2, 0)


def test_one_that_ends_may_cancel_another_of_the_same_second() -> None:
    expiries = Expiries(0.0)
    endings = [Ending(expiries) for _ in range(5)]
    for ending in endings:
        expiries.set(ending, 5.0)
        ending.then = lambda me=ending: [expiries.cancel(other) for other in endings if other is not me]
    expiries.tick(10.0)
    assert sum(ending.ended for ending in endings) == 1


# the provider


@pytest.fixture
async def provider(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Provider]:
    monkeypatch.setattr(provider_module, "RETRY_SECONDS", 0.2)
    provider = await Provider().start()
    provider.keys = [jwk(RSA, kid="a")]
    yield provider
    await provider.stop()


async def test_keys_stay_whatever_the_provider_says_afterwards(provider: Provider) -> None:
    keys = KeyProvider(provider.url)
    assert keys.is_away
    running = asyncio.create_task(keys.run())
    try:
        await eventually(lambda: not keys.is_away, "keys", seconds=20)
        for body, status in ((b"{", 200), (b'{"keys":[]}', 200), (b"x" * 1_000_000, 200), (None, 302), (None, 500)):
            provider.body, provider.status = body, status
            failures = keys.failures

            def failed(failures: int = failures) -> bool:
                keys.ask(("b", "RS256"))
                return keys.failures > failures

            await eventually(failed, f"{status} to be no good", seconds=20)
            assert keys.is_away
            assert not keys.has_not(("b", "RS256"))
            assert keys.keyring.find("a", "RS256")
        asked = provider.asked
        provider.body, provider.status, provider.keys = None, 200, [jwk(RSA, kid="c")]
        await eventually(lambda: not keys.is_away, "keys again", seconds=20)
        assert provider.asked > asked
        assert not keys.keyring.find("a", "RS256")
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nBad secret: x\r\n\r\n",
        b"HTTP/1.1 secret\r\n\r\n",
        b"secret\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: secret\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nsecret\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"secret" * 10_000 + b"\r\n\r\n",
        b"",
    ],
)
async def test_nothing_of_what_the_provider_sends_is_logged_nor_the_query(answer: bytes) -> None:
    async def give(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(give, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        keys = KeyProvider(f"http://127.0.0.1:{port}/jwks?key=private")
        with capture_logs() as logs:
            running = asyncio.create_task(keys.run())
            await eventually(lambda: keys.failures > 0, "the failure", seconds=20)
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
    (entry,) = logs
    assert entry["error"]
    assert "secret" not in str(entry)
    assert "private" not in str(entry)


async def test_a_crowd_waits_for_one_fetch_and_then_it_is_known(provider: Provider) -> None:
    keys = KeyProvider(provider.url)
    running = asyncio.create_task(keys.run())
    try:
        await eventually(lambda: not keys.is_away, "keys", seconds=20)
        await asyncio.sleep(0.3)
        asked = provider.asked
        answers = [keys.ask((f"key-{number}", "RS256")) for number in range(2_000)]
        answer = answers[0]
        assert answer is not None
        assert answers == [answer] * MAX_WAITING + [None] * (2_000 - MAX_WAITING)
        await asyncio.wait_for(answer, 20)
        assert provider.asked == asked + 1
        assert keys.ask(("key-0", "RS256")) is None
        assert keys.has_not(("key-0", "RS256"))
        assert not keys.has_not(("never asked for", "RS256"))
        assert not keys.has_not(("key-1999", "RS256")), "what is noted has a bound"
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
