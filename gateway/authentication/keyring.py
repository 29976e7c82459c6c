"""The keys that tokens are verified with, each for one algorithm only. Pure.

Which algorithm that is comes from the key, never from the token (RFC 8725 section 3.1): a public key
cannot be taken for a secret, and `none` is nobody's.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt import PyJWK
from jwt.algorithms import get_default_algorithms
from jwt.exceptions import PyJWTError

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

MIN_SECRET_BYTES: Final = 32
"""Of a secret for HS256 (RFC 7518 section 3.2)."""

MIN_RSA_BITS: Final = 2048
"""RFC 7518 section 3.3."""

MAX_KEYS: Final = 100
"""In a key set."""

MAX_SAME: Final = 4
"""Keys with the same id, or without one. A token is tried with each: two of them overlap in a rotation."""


_ALGORITHMS: Final = get_default_algorithms()


class Key(NamedTuple):
    """What verifies, and the one algorithm that it verifies with (RFC 7518 section 3.1)."""

    algorithm: str
    key: PublicKey | bytes

    def verifies(self, signed: bytes, signature: bytes) -> bool:
        """Whether this key's signature of `signed` it is. Takes the same time wherever an HMAC differs."""
        return _ALGORITHMS[self.algorithm].verify(signed, self.key, signature)


class Keyring:
    """The keys of one issuer, each with its id or None. Raises ValueError for more than MAX_SAME with the
    same id, or without: a token may be of any of them."""

    def __init__(self, keys: Iterable[tuple[str | None, Key]]) -> None:
        self._by_id: defaultdict[str | None, list[Key]] = defaultdict(list)
        for key_id, key in keys:
            self._by_id[key_id].append(key)
        if any(len(same) > MAX_SAME for same in self._by_id.values()):
            raise ValueError(f"more than {MAX_SAME} keys with the same id, or without one")

    def __len__(self) -> int:
        return sum(map(len, self._by_id.values()))

    def find(self, key_id: str | None, algorithm: str) -> Sequence[Key]:
        """The keys that a token may be signed with whose header says this, those of other algorithms
        included; empty when the ring has none."""
        if key_id in self._by_id:
            return self._by_id[key_id]
        if key_id is not None:
            # Where no key has a name, one that a token gives means nothing.
            return self._by_id[None] if self._by_id.keys() == {None} else ()
        # A token that names no key, and keys that all have names: only one of its algorithm will do.
        fitting = [key for same in self._by_id.values() for key in same if key.algorithm == algorithm]
        return fitting if len(fitting) == 1 else ()


NO_KEYS: Final = Keyring(())


def keyring_of_secret(secret: str) -> Keyring:
    """A secret shared with the issuer, for HS256. Raises ValueError, without the secret."""
    encoded = secret.encode()
    if len(encoded) < MIN_SECRET_BYTES:
        raise ValueError(f"takes at least {MIN_SECRET_BYTES} bytes, got {len(encoded)}")
    return Keyring([(None, Key("HS256", encoded))])


def keyring_of_public_key(pem: str) -> Keyring:
    """A public key in PEM (SubjectPublicKeyInfo); a literal `\\n` stands for an end of line, since
    many ways to set a variable know no other. Raises ValueError with what it takes."""
    try:
        loaded = load_pem_public_key(pem.replace("\\n", "\n").encode())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("takes a public key in PEM (-----BEGIN PUBLIC KEY-----)") from None
    return Keyring([(None, _key(loaded))])


def keyring_of_jwks(document: bytes) -> Keyring:
    """A key set (RFC 7517 section 5). Keys of other kinds, uses and algorithms are left out, and so
    are those that are too weak. Raises ValueError when it is none, or has no key that can be used."""
    try:
        keys = json.loads(document)["keys"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise ValueError("not a key set (JSON with `keys`)") from None
    if not isinstance(keys, list) or len(keys) > MAX_KEYS:
        raise ValueError(f"not a list of up to {MAX_KEYS} keys")
    found = [(jwk.get("kid"), key) for jwk in keys if (key := _jwk(jwk)) is not None]
    if not found:
        raise ValueError("no key for RS256, ES256 or EdDSA is in it")
    return Keyring(found)


def _key(loaded: object) -> Key:
    """Raises ValueError for a kind, curve or size that is not taken."""
    if isinstance(loaded, RSAPublicKey):
        if loaded.key_size < MIN_RSA_BITS:
            raise ValueError(f"takes an RSA key of at least {MIN_RSA_BITS} bits, got {loaded.key_size}")
        return Key("RS256", loaded)
    if isinstance(loaded, EllipticCurvePublicKey) and isinstance(loaded.curve, SECP256R1):
        return Key("ES256", loaded)
    if isinstance(loaded, Ed25519PublicKey):
        return Key("EdDSA", loaded)
    raise ValueError("takes a public key for RS256, ES256 (P-256) or EdDSA (Ed25519)")


def _jwk(jwk: Any) -> Key | None:
    """None for one that is not to be used."""
    if not isinstance(jwk, dict) or jwk.get("kty") not in ("RSA", "EC", "OKP") or "d" in jwk:
        return None  # a private key has no business there, nor has a secret
    if jwk.get("use", "sig") != "sig" or not isinstance(jwk.get("kid"), str | None):
        return None
    operations = jwk.get("key_ops")
    if operations is not None and not (isinstance(operations, list) and "verify" in operations):
        return None
    try:
        algorithm = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}[jwk["kty"]]
        key = _key(PyJWK(jwk, algorithm).key)
    except (PyJWTError, ValueError, TypeError, OverflowError, UnsupportedAlgorithm):
        return None
    return key if jwk.get("alg", key.algorithm) == key.algorithm else None
