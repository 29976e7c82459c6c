"""TLS contexts from files: what is wrong with them is said, with the setting's name."""

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from harness.certificates import Authority, Identity

from shared.errors import SettingsError
from shared.tls import Names, client_context, load_identity, server_context

NAMES = Names("CERT", "KEY", "PASSWORD")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder)


@pytest.fixture(scope="module")
def identity(authority: Authority) -> Identity:
    return authority.issue("server")


@pytest.fixture(scope="module")
def encrypted(folder: Path, identity: Identity) -> Path:
    key = load_pem_private_key(identity.key_file.read_bytes(), None)
    file = folder / "encrypted.pem"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"s3cret")))
    return file


def why_not(cert_file: Path, key_file: Path | None, password: str | None = None) -> str:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with pytest.raises(SettingsError) as raised:
        load_identity(context, str(cert_file), key_file and str(key_file), password, NAMES)
    text = str(raised.value)
    assert "\n" not in text
    return text


def test_with_a_file_only_that_authority_is_trusted(authority: Authority) -> None:
    context = client_context(str(authority.ca_file), "CA")
    assert len(context.get_ca_certs()) == 1
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_tls_1_2_is_the_least(authority: Authority, identity: Identity) -> None:
    files = str(identity.cert_file), str(identity.key_file)
    for context in (client_context(None, "CA"), server_context(*files, None, NAMES)):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_key_and_certificate_may_be_in_one_file(identity: Identity) -> None:
    server_context(str(identity.chain_file), None, None, NAMES)


def test_an_encrypted_key_is_opened(identity: Identity, encrypted: Path) -> None:
    server_context(str(identity.cert_file), str(encrypted), "s3cret", NAMES)


def test_without_its_password_an_encrypted_key_is_refused_and_nobody_asked(identity: Identity, encrypted: Path) -> None:
    assert why_not(identity.cert_file, encrypted) == f"PASSWORD: is needed for the encrypted key in {encrypted}"
    wrong = why_not(identity.cert_file, encrypted, "wr0ng")
    assert wrong == f"PASSWORD: does not open the encrypted key in {encrypted}"


def test_a_file_that_is_not_there_is_named(folder: Path, identity: Identity) -> None:
    gone = folder / "gone.pem"
    assert why_not(gone, None) == f"CERT: {gone} cannot be read: No such file or directory"
    assert why_not(identity.cert_file, gone) == f"KEY: {gone} cannot be read: No such file or directory"
    with pytest.raises(SettingsError, match=f"CA: {gone} cannot be read"):
        client_context(str(gone), "CA")
    with pytest.raises(SettingsError, match=f"CA: {folder} cannot be read: Is a directory"):
        client_context(str(folder), "CA")


def test_a_file_of_something_else_is_named(identity: Identity, folder: Path) -> None:
    text = folder / "text.pem"
    text.write_text("hello")
    assert why_not(text, None) == f"CERT: {text} holds no certificate in PEM format"
    assert why_not(identity.cert_file, text) == f"KEY: {text} holds no key in PEM format"
    assert why_not(identity.cert_file, None) == f"CERT: {identity.cert_file} holds no key in PEM format"
    with pytest.raises(SettingsError, match=f"CA: {identity.key_file} holds no certificate"):
        client_context(str(identity.key_file), "CA")


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_the_key_of_another_certificate_is_said(identity: Identity, folder: Path, kind: str) -> None:
    other = generate_private_key(SECP256R1()) if kind == "ec" else generate_rsa_key(65_537, 2048)
    file = folder / f"other-{kind}.pem"
    file.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert why_not(identity.cert_file, file) == (
        f"KEY: {file} has not the key of the first certificate in {identity.cert_file}"
    )
