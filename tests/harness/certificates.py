"""Certificates for tests: an authority of their own, and what it vouches for, in files."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, in PEM files; `chain_file` has both."""

    cert_file: Path
    key_file: Path
    chain_file: Path


class Authority:
    """One authority. `folder` gets the files, which begin with `name`."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._name = name
        self._ca = trustme.CA()
        self.ca_file = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(self.ca_file)

    def issue(self, name: str, *hosts: str) -> Identity:
        """A certificate for `hosts`, names or addresses; good for clients and servers."""
        issued = self._ca.issue_cert(*(hosts or ("127.0.0.1", "localhost")))
        paths = [self._folder / f"{self._name}-{name}{ending}.pem" for ending in ("", "-key", "-chain")]
        key = load_pem_private_key(issued.private_key_pem.bytes(), None)
        # PKCS #8, the one format that Java reads, too.
        key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        certificates = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
        for path, content in zip(paths, (certificates, key_pem, key_pem + certificates), strict=True):
            path.write_bytes(content)
        return Identity(*paths)

    def server_context(self, *hosts: str, wants_client_certificate: bool = False) -> ssl.SSLContext:
        """What a server with a certificate for `hosts` listens with."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._ca.issue_cert(*(hosts or ("127.0.0.1", "localhost"))).configure_cert(context)
        if wants_client_certificate:
            context.verify_mode = ssl.CERT_REQUIRED
            self._ca.configure_trust(context)
        return context

    def client_context(self) -> ssl.SSLContext:
        """What a client that trusts this authority only connects with."""
        return ssl.create_default_context(cafile=str(self.ca_file))
