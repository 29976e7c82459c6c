"""Issuers of tokens, good and bad, and an identity provider that serves its keys."""

import base64
import hashlib
import hmac
import json
import time
import warnings
from typing import Any, Self

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from demo.ports import free_port

ISSUER = "https://issuer.example"
AUDIENCE = "bloasis"

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65_537, key_size=bits)


def pem(key: PrivateKey) -> str:
    """The public half."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def jwk(key: PrivateKey, **fields: Any) -> dict[str, Any]:
    """The public half, as a key set has it."""
    algorithm = jwt.get_algorithm_by_name(algorithm_of(key))
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), **fields}


def algorithm_of(key: PrivateKey | str) -> str:
    if isinstance(key, str):
        return "HS256"
    return {"RSA": "RS256", "EC": "ES256"}.get(
        "RSA" if isinstance(key, rsa.RSAPrivateKey) else "EC" if isinstance(key, ec.EllipticCurvePrivateKey) else "",
        "EdDSA",
    )


def claims(user: object = "ann", seconds: float = 86_400, **changes: Any) -> dict[str, Any]:
    """Good claims, changed; None takes one away."""
    now = time.time()
    all_of = {"sub": user, "iat": int(now) - 1, "exp": int(now + seconds), "iss": ISSUER, "aud": AUDIENCE} | changes
    return {name: value for name, value in all_of.items() if value is not None}


def token(key: PrivateKey | str, content: dict[str, Any] | None = None, **header: Any) -> str:
    """Signed with the algorithm that fits the key."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weak keys, which some tests are about
        return jwt.encode(content or claims(), key, algorithm_of(key), headers=header or None)


def forged(header: Any, content: Any, signature: bytes | None = None, *, secret: bytes = b"") -> str:
    """Whatever is wished, signed with HMAC and `secret`, or not at all."""
    parts = [_encoded(json.dumps(part).encode()) for part in (header, content)]
    if signature is None:
        signature = hmac.digest(secret, ".".join(parts).encode(), hashlib.sha256)
    return ".".join((*parts, _encoded(signature)))


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Provider:
    """An identity provider on this machine. `answer` is what it gives; it counts who asks."""

    def __init__(self) -> None:
        self.port = free_port()
        self.asked = 0
        self.status = 200
        self.keys: list[dict[str, Any]] = []
        self.body: bytes | None = None
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/jwks"

    async def _give(self, _: web.Request) -> web.Response:
        self.asked += 1
        body = json.dumps({"keys": self.keys}).encode() if self.body is None else self.body
        return web.Response(body=body, status=self.status, headers={"Location": "/elsewhere"})

    async def start(self) -> Self:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._give)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        return self

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
