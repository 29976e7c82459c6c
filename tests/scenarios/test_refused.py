"""Who is refused: a table of requests through the real door, of replicas that log all they can.

Each is sent twice: as it is, which is told by an HTTP status, and with a subprotocol of ours, which is told
by a close code. Afterwards nothing of what was sent as a token, or of what signs them, is in any log.
"""

import base64
import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from harness.raw import UPGRADE, RawSocket
from harness.stage import Stage
from harness.tokens import AUDIENCE, ISSUER, Provider, claims, forged, jwk, pem, rsa_key, token

from demo.process import Process

SECRET = "a secret that only the issuer and the gateway know"
NOW = int(time.time())
RSA, OTHER_RSA, SMALL_RSA = rsa_key(), rsa_key(), rsa_key(1024)
EC, ED = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()
CLOSES = {400: 4503, 401: 4500, 403: 4500, 429: 4004, 503: 4004}


@dataclass(frozen=True)
class Case:
    """What is sent to which replica, and how it is refused."""

    name: str
    replica: str
    status: int
    tokens: tuple[str, ...] = ()
    user: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    query: str = ""
    close: int | None = None
    path: str = "/ws"


def bearer(name: str, replica: str, sent: str, status: int = 401, **rest: object) -> Case:
    """A token in Authorization."""
    return Case(name, replica, status, (sent,), headers={"Authorization": f"Bearer {sent}"}, **rest)  # type: ignore[arg-type]


def flipped(sent: str) -> str:
    """Another signature."""
    head, _, signature = sent.rpartition(".")
    return f"{head}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"


def tokens() -> Iterator[Case]:
    good = token(SECRET)
    yield Case("no token", "secret", 401, user="ann")
    yield Case("no token and no user", "secret", 401)
    for scheme in ("Basic", "Token", "Bearerx", "Negotiate"):
        yield Case(f"scheme {scheme}", "secret", 401, (good,), headers={"Authorization": f"{scheme} {good}"})
    yield bearer("nothing behind Bearer", "secret", "")
    for name, text in {
        "no token at all": "abc",
        "two parts": "a.b",
        "four parts": good + ".x",
        "points": "...",
        "not base64": "!!.!!.!!",
        "header is no JSON": base64.urlsafe_b64encode(b"{").decode() + good[good.index(".") :],
        "header is a list": forged([], claims(), secret=SECRET.encode()),
        "payload is a list": forged({"alg": "HS256"}, [1], secret=SECRET.encode()),
        "deep header": forged(json.loads("[" * 900 + "]" * 900), {}),
        "white space": good.replace(".", " .", 1),
        "another signature": flipped(good),
        "a signature cut short": good[:-5],
        "no signature": good.rpartition(".")[0] + ".",
        "of another secret": token("another secret that is just as long as it has to be"),
    }.items():
        yield bearer(name, "secret", text)
    for name, changed in {
        "expired": claims(exp=NOW - 60),
        "expires never": claims(exp=None),
        "exp is text": claims(exp="soon"),
        "exp is true": claims(exp=True),
        "exp is null": {**claims(), "exp": None},
        "exp is a list": claims(exp=[NOW + 60]),
        "not valid yet": claims(nbf=NOW + 86_400),
        "issued in the future": claims(iat=NOW + 86_400),
        "nbf is text": claims(nbf="later"),
        "issued long ago": claims(iat=NOW - 40 * 86_400),
        "iat is text": claims(iat="x"),
        "wrong issuer": claims(iss="https://other.example"),
        "no issuer": claims(iss=None),
        "iss is a list": claims(iss=None) | {"iss": [ISSUER]},
        "wrong audience": claims(aud="others"),
        "no audience": claims(aud=None),
        "aud is a list of others": claims(aud=["a", "b"]),
        "no user": claims(None),
        "user is empty": claims(""),
        "user is a list": claims(["ann"]),
        "user is true": claims(True),
        "user has a NUL": claims("a\0b"),
        "user has a line end": claims("a\r\nb"),
        "user too long": claims("u" * 129),
        "user is an object": claims({"id": 1}),
        "user is 1.5": claims(1.5),
    }.items():
        yield bearer(name, "secret", jwt_of(changed))
    for algorithm in ("none", "None", "NONE", "nOnE", ""):
        yield bearer(f"alg {algorithm!r}", "secret", forged({"alg": algorithm}, claims(), b""))
    for algorithm in ("HS384", "HS512", "RS256", "ES256", "XX", 1, None, ["HS256"]):
        yield bearer(f"alg {algorithm}", "secret", forged({"alg": algorithm}, claims(), secret=SECRET.encode()))
    for header in ({"crit": ["exp"]}, {"crit": []}, {"b64": False, "crit": ["b64"]}, {"kid": 7}, {"kid": ["a"]}):
        yield bearer(f"header {header}", "secret", forged({"alg": "HS256"} | header, claims(), secret=SECRET.encode()))
    yield bearer("oversized", "secret", token(SECRET, claims(padding="x" * 9_000)))
    yield bearer("another user's", "secret", good, 403, user="bob")
    yield bearer("another user's, for /events", "secret", good, 403, user="bob", path="/events")
    yield bearer("user twice", "secret", good, 400, query="user_id=ann&user_id=ann")
    both = {"Authorization": f"Bearer {good}", "Sec-WebSocket-Protocol": f"notify.plain, bearer.{good}"}
    yield Case("token sent twice", "secret", 4503, (good,), headers=both)
    yield Case("token in the query", "secret", 400, (good,), query=f"token={good}")
    yield Case("bad token in the query", "query", 401, (flipped(good),), query=f"token={flipped(good)}")
    yield Case("token as user_id", "secret", 401, (good,), query=f"user_id={quote(good[:120])}")


def jwt_of(changed: dict[str, object]) -> str:
    """What PyJWT would not sign."""
    return forged({"alg": "HS256", "typ": "JWT"}, changed, secret=SECRET.encode())


def keys() -> Iterator[Case]:
    yield bearer(
        "HS256 signed with the public key", "public", forged({"alg": "HS256"}, claims(), secret=pem(RSA).encode())
    )
    yield bearer(
        "HS256 with the key without its end",
        "public",
        forged({"alg": "HS256"}, claims(), secret=pem(RSA).strip().encode()),
    )
    yield bearer("of another RSA key", "public", token(OTHER_RSA))
    yield bearer("of an EC key", "public", token(EC))
    yield bearer("of an Ed25519 key", "public", token(ED))
    yield bearer("RS256 without a signature", "public", forged({"alg": "RS256"}, claims(), b""))
    yield bearer("alg none with a public key", "public", forged({"alg": "none"}, claims(), b""))
    jku = {"jku": "http://127.0.0.1:9/keys", "x5u": "http://127.0.0.1:9/cert"}
    yield bearer("jku of the attacker", "jwks", token(OTHER_RSA, None, kid="rsa", **jku))
    yield bearer("jwk in the header", "jwks", token(OTHER_RSA, None, kid="rsa", jwk=jwk(OTHER_RSA)))
    yield bearer("key of another id", "jwks", token(RSA, None, kid="ec"))
    yield bearer("no key id among several of a kind", "two", token(RSA), 503)
    yield bearer(
        "the set's secret is none", "jwks", forged({"alg": "HS256", "kid": "oct"}, claims(), secret=b"s" * 32), 503
    )
    yield bearer("the set's weak key is none", "jwks", token(SMALL_RSA, None, kid="small"), 503)
    yield bearer("key id is a path", "jwks", token(OTHER_RSA, None, kid="../../etc/passwd"), 503)
    yield bearer("unknown key, provider down", "down", token(RSA, None, kid="rsa"), 503)


def pages() -> Iterator[Case]:
    good = token(SECRET)
    signed = {"Authorization": f"Bearer {good}"}
    for origin in (
        "https://evil.example",
        "null",
        "https://app.example.com.evil.example",
        "https://app.example.com:444",
        "http://app.example.com",
        "https://app.example.com/",
        "app.example.com",
        "https://",
        "https://app.example.com https://b.example",
        "https://app.example.com@evil.example",
        "file://",
        "https://xn--pp-eka.example.com",
    ):
        yield Case(f"Origin {origin}", "secret", 403, (good,), headers=signed | {"Origin": origin}, close=4504)
    for origin in (
        "http://127.0.0.2",
        "null",
        "https://evil.example",
        "http://127.0.0.1.evil.example",
        "http://127.0.0.1:1",
    ):
        yield Case(f"Origin {origin}, none named", "none", 403, user="ann", headers={"Origin": origin}, close=4504)
    for name, sent in {"expired": token(SECRET, claims(exp=NOW - 60)), "wrong": flipped(good)}.items():
        page = {"Origin": "https://app.example.com", "Cookie": f"session={sent}"}
        yield Case(f"{name} token in a cookie", "cookie", 401, (sent,), headers=page)
    yield Case("cookie without Origin", "cookie", 403, (good,), headers={"Cookie": f"session={good}"}, close=4504)
    for site in ("same-site", "cross-site", "none"):
        headers = {"Cookie": f"session={good}", "Sec-Fetch-Site": site}
        yield Case(f"cookie without Origin, {site}", "cookie", 403, (good,), headers=headers, close=4504)
    yield Case(
        "cookie of a foreign page",
        "cookie",
        403,
        (good,),
        headers={"Cookie": f"session={good}", "Origin": "https://evil.example"},
        close=4504,
    )
    yield Case(
        "cookie twice",
        "cookie",
        400,
        (good,),
        headers={"Cookie": f"session={good}; session=x", "Origin": "https://app.example.com"},
    )
    yield Case(
        "cookie of another name",
        "cookie",
        401,
        (good,),
        headers={"Cookie": f"token={good}", "Origin": "https://app.example.com"},
    )
    yield Case(
        "cookie that is not asked for",
        "secret",
        401,
        (good,),
        headers={"Cookie": f"session={good}", "Origin": "https://app.example.com"},
    )


def places() -> Iterator[Case]:
    for host in (
        "evil.example",
        "rebind.127.0.0.1.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "localhost.evil.example",
        "127.0.0.1@evil.example",
    ):
        yield Case(f"Host {host}", "local", 401, user="ann", headers={"Host": host})
    for origin in ("https://evil.example", "null", "http://localhost.evil.example"):
        yield Case(f"Origin {origin}, local only", "local", 401, user="ann", headers={"Origin": origin})
    for name in ("X-Forwarded-For", "X-Forwarded-Proto", "Forwarded", "Via", "X-Real-IP", "CF-Connecting-IP"):
        yield Case(f"{name}, local only", "local", 401, user="ann", headers={name: "127.0.0.1"})


CASES = [*tokens(), *keys(), *pages(), *places()]


@pytest.fixture
async def provider() -> object:
    provider = await Provider().start()
    provider.keys = [
        jwk(RSA, kid="rsa", use="sig", alg="RS256"),
        jwk(EC, kid="ec"),
        jwk(ED, kid="ed"),
        jwk(SMALL_RSA, kid="small"),
        {"kty": "oct", "kid": "oct", "k": base64.urlsafe_b64encode(b"s" * 32).decode().rstrip("=")},
    ]
    yield provider
    await provider.stop()


async def replicas(stage: Stage, provider: Provider) -> dict[str, Process]:
    """One for each way to be set up."""
    common = {"LOG_LEVEL": "DEBUG", "AUTH_MODE": "jwt", "JWT_ISSUER": ISSUER, "JWT_AUDIENCE": AUDIENCE}
    secret = common | {"JWT_SECRET": SECRET, "ALLOWED_ORIGINS": "https://app.example.com"}
    away = Provider()  # never started
    two = await Provider().start()
    two.keys = [jwk(RSA, kid="a"), jwk(OTHER_RSA, kid="b")]
    made = {
        "secret": secret,
        "query": secret | {"ALLOW_QUERY_TOKEN": "true"},
        "cookie": secret | {"AUTH_COOKIE": "session"},
        "public": common | {"JWT_PUBLIC_KEY": pem(RSA)},
        "jwks": common | {"JWT_JWKS_URL": provider.url},
        "two": common | {"JWT_JWKS_URL": two.url},
        "down": common | {"JWT_JWKS_URL": away.url},
        "none": {"LOG_LEVEL": "DEBUG", "AUTH_MODE": "none"},
        "local": {"LOG_LEVEL": "DEBUG", "AUTH_MODE": ""},
    }
    gateways = {name: stage.add_gateway(name, env=env) for name, env in made.items()}
    await stage.start(*gateways.values())
    # They have their keys. Later they would ask again for a key that they do not know, and know that it is none.
    await two.stop()
    await provider.stop()
    return gateways


async def send(case: Case, gateway: Process, more: dict[str, str]) -> tuple[int, str]:
    """HTTP status and `error`, or the close code of an accepted handshake and its reason."""
    query = "&".join(part for part in (case.query, f"user_id={case.user}" if case.user else "") if part)
    socket = await RawSocket.connect(gateway.port)
    try:
        answer = await socket.request(f"{case.path}?{query}", UPGRADE | more | case.headers)
        if answer.status != 101:
            return answer.status, answer.json["error"] + ": " + answer.json["message"]
        opcode, payload = await socket.read_frame()
        assert opcode == 8, f"{case.name}: let in"
        return struct.unpack("!H", payload[:2])[0], payload[2:].decode()
    finally:
        await socket.close()


def test_the_table_is_as_long_as_it_claims() -> None:
    assert len({(case.name, case.replica) for case in CASES}) == len(CASES) >= 120


async def test_who_is_refused_and_how_and_nothing_of_a_token_is_logged(stage: Stage, provider: Provider) -> None:
    gateways = await replicas(stage, provider)
    wrong = []
    for case in CASES:
        status, text = await send(case, gateways[case.replica], {})
        if status != case.status or not text:
            wrong.append(f"{case.name}: {status} {text}, not {case.status}")
        if case.path != "/ws" or "Sec-WebSocket-Protocol" in case.headers or status == 400:
            continue
        code, text = await send(case, gateways[case.replica], {"Sec-WebSocket-Protocol": "notify.v1"})
        if code != (case.close or CLOSES[case.status]):
            wrong.append(f"{case.name}: closed with {code} {text}")
    assert not wrong, "\n".join(wrong)
    await good_ones_are_let_in(gateways)
    for case in CASES:
        for secret in (sent for sent in case.tokens if len(sent) > 20):
            # A part is as bad as the whole; the head of them all is the same.
            assert_not_logged(gateways, secret[-24:])
    assert_not_logged(gateways, SECRET, token(SECRET)[:40])


async def good_ones_are_let_in(gateways: dict[str, Process]) -> None:
    """The counterpart: each way of sending a good token is taken, on the same replicas."""
    good, page = token(SECRET), {"Origin": "https://app.example.com"}
    for name, headers, query in (
        ("secret", {"Authorization": f"Bearer {good}"}, ""),
        ("secret", {"Authorization": f"bearer {good}"} | page, "user_id=ann"),
        ("secret", {"Sec-WebSocket-Protocol": f"notify.plain, bearer.{good}"}, ""),
        ("secret", {"Sec-WebSocket-Protocol": f"bearer.{good}, notify.v1"}, "user_id=ann"),
        ("query", {}, f"token={good}"),
        ("cookie", {"Cookie": f"a=b; session={good}"} | page, ""),
        ("cookie", {"Cookie": f"session={good}", "Sec-Fetch-Site": "same-origin"}, ""),
        ("cookie", {"Cookie": "session=old", "Authorization": f"Bearer {good}"}, ""),
        ("secret", {"Authorization": f"Bearer {token(SECRET, claims(iat=None))}"}, ""),
        ("secret", {"Authorization": f"Bearer {token(SECRET, claims(aud=['x', AUDIENCE]))}"}, ""),
        ("secret", {"Authorization": f"Bearer {jwt_of(claims(7))}"}, "user_id=7"),
        ("public", {"Authorization": f"Bearer {token(RSA)}"}, ""),
        ("jwks", {"Authorization": f"Bearer {token(RSA, None, kid='rsa')}"}, ""),
        ("jwks", {"Authorization": f"Bearer {token(RSA)}"}, ""),
        ("jwks", {"Authorization": f"Bearer {token(EC, None, kid='ec')}"}, ""),
        ("jwks", {"Authorization": f"Bearer {token(ED, None, kid='ed')}"}, ""),
        ("none", {"Origin": "http://127.0.0.1"}, "user_id=ann"),
        ("none", {"Authorization": "Bearer whatever"}, "user_id=ann"),
        ("local", {"Origin": "http://localhost:3000"}, "user_id=ann"),
    ):
        socket = await RawSocket.connect(gateways[name].port)
        answer = await socket.request(f"/ws?{query}", UPGRADE | headers)
        await socket.close()
        assert answer.status == 101, f"{name} {sorted(headers)} {query[:20]}: {answer}"
        assert "bearer" not in answer.headers.get("sec-websocket-protocol", "")


def assert_not_logged(gateways: dict[str, Process], *secrets: str) -> None:
    for gateway in gateways.values():
        log = gateway.log()
        assert not [secret for secret in secrets if secret in log], f"{gateway.name} logs a secret"
