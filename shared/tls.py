"""TLS contexts from files that settings name. Made once, at the start: a wrong file is found there."""

import ssl
from typing import Final, NamedTuple

from shared.errors import SettingsError

LEAST_VERSION: Final = ssl.TLSVersion.TLSv1_2

_OTHER_KEY: Final = ("KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
"""How OpenSSL calls a key that is not the certificate's: of its kind, of another kind."""


class Names(NamedTuple):
    """What the settings are called that say where a certificate is, its key, and the key's password."""

    certificate: str
    key: str
    password: str


def client_context(ca_file: str | None, name: str) -> ssl.SSLContext:
    """For connecting to servers. Their certificate and host name are checked, against `ca_file` (PEM) and
    nothing else, or without one against the system's authorities.

    Raises SettingsError, which calls the file `name`.
    """
    if ca_file is not None:
        _content(ca_file, name)
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError:
        raise SettingsError(f"{name}: {ca_file} holds no certificate in PEM format") from None
    context.minimum_version = LEAST_VERSION
    return context


def server_context(cert_file: str, key_file: str | None, password: str | None, names: Names) -> ssl.SSLContext:
    """For a listener of HTTP/1.1; clients show no certificate. Raises SettingsError like `load_identity`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = LEAST_VERSION
    context.set_alpn_protocols(["http/1.1"])
    load_identity(context, cert_file, key_file, password, names)
    return context


def load_identity(
    context: ssl.SSLContext, cert_file: str, key_file: str | None, password: str | None, names: Names
) -> None:
    """Give `context` a certificate, followed by those between it and its authority, and its key, both in PEM
    format. Without `key_file` the key is in `cert_file`, too.

    Raises SettingsError, with `names` for what is wrong, never the password.
    """
    certificate = _content(cert_file, names.certificate)
    key = certificate if key_file is None else _content(key_file, names.key)
    key_is, key_in = (names.certificate, cert_file) if key_file is None else (names.key, key_file)
    try:
        # The password is always given: without, OpenSSL would ask the terminal for that of an encrypted key.
        context.load_cert_chain(cert_file, key_file, lambda: password or "")
    except ssl.SSLError as error:
        if b"-----BEGIN CERTIFICATE" not in certificate:
            why = f"{names.certificate}: {cert_file} holds no certificate in PEM format"
        elif b"PRIVATE KEY-----" not in key:
            why = f"{key_is}: {key_in} holds no key in PEM format"
        elif error.reason in _OTHER_KEY:
            why = f"{key_is}: {key_in} has not the key of the first certificate in {cert_file}"
        elif b"ENCRYPTED" in key:
            why = f"{names.password}: {'does not open' if password else 'is needed for'} the encrypted key in {key_in}"
        else:
            why = f"{names.certificate}: {cert_file} cannot be used ({error})"
        raise SettingsError(why) from None


def _content(file: str, name: str) -> bytes:
    try:
        with open(file, "rb") as opened:
            return opened.read()
    except OSError as error:
        raise SettingsError(f"{name}: {file} cannot be read: {error.strerror}") from None
