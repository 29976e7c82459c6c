"""How Redpanda is entered: what settings go together, what aiokafka is told, what is said about its errors."""

import asyncio
import logging
import ssl
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaConnectionError, SaslAuthenticationFailed, TopicAuthorizationFailedError
from harness.certificates import Authority

from relay.log_filter import SayWhatToDo
from relay.redpanda import advice, bounded, connection
from relay.settings import KafkaSettings
from shared.errors import BrokerUnavailable, SettingsError
from shared.settings import load

SASL = {"REDPANDA_USERNAME": "relay", "REDPANDA_PASSWORD": "s3cret"}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no .env of the checkout


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


def settings(monkeypatch: pytest.MonkeyPatch, **env: object) -> KafkaSettings:
    for name, value in env.items():
        monkeypatch.setenv(name, str(value))
    return load(KafkaSettings)


def test_plain_is_what_it_is_without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    options = connection(settings(monkeypatch), "unit")
    assert (options["security_protocol"], options["ssl_context"]) == ("PLAINTEXT", None)
    assert not any(name.startswith("sasl") for name in options)


@pytest.mark.parametrize("spelt", ["SASL_SSL", "sasl_ssl", " Sasl_Ssl "])
def test_tls_with_a_password(monkeypatch: pytest.MonkeyPatch, authority: Authority, spelt: str) -> None:
    kafka = settings(monkeypatch, REDPANDA_SECURITY=spelt, REDPANDA_CA_FILE=authority.ca_file, **SASL)
    options = connection(kafka, "unit")
    assert options["security_protocol"] == "SASL_SSL"
    assert isinstance(options["ssl_context"], ssl.SSLContext)
    assert options["ssl_context"].check_hostname
    assert options["ssl_context"] is connection(kafka, "another")["ssl_context"]
    assert options["sasl_mechanism"] == "SCRAM-SHA-256"
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("relay", "s3cret")
    assert "s3cret" not in repr(kafka)


async def test_every_client_of_aiokafka_takes_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    env = {"REDPANDA_SECURITY": "sasl_ssl", "REDPANDA_SASL_MECHANISM": "scram-sha-512", **SASL}
    kafka = await asyncio.to_thread(settings, monkeypatch, **env)
    for client in (AIOKafkaConsumer, AIOKafkaProducer, AIOKafkaAdminClient):
        made = client(**connection(kafka, "unit"))
        await (made.close if client is AIOKafkaAdminClient else made.stop)()


def test_a_certificate_of_the_relays_own(monkeypatch: pytest.MonkeyPatch, authority: Authority) -> None:
    ours = authority.issue("client", "relay")
    both = {"REDPANDA_SECURITY": "SSL", "REDPANDA_CERT_FILE": ours.cert_file, "REDPANDA_KEY_FILE": ours.key_file}
    assert connection(settings(monkeypatch, **both), "unit")["security_protocol"] == "SSL"


@pytest.mark.parametrize(
    ("env", "why"),
    [
        ({"REDPANDA_SECURITY": "TLS"}, r"REDPANDA_SECURITY='TLS': .*'SASL_SSL'"),
        ({"REDPANDA_SASL_MECHANISM": "GSSAPI"}, r"REDPANDA_SASL_MECHANISM='GSSAPI': .*'SCRAM-SHA-512'"),
        (SASL, "REDPANDA_USERNAME: goes with REDPANDA_SECURITY=SASL_SSL or SASL_PLAINTEXT only"),
        ({"REDPANDA_SECURITY": "SSL", **SASL}, "REDPANDA_USERNAME: goes with REDPANDA_SECURITY=SASL"),
        ({"REDPANDA_SECURITY": "SASL_SSL"}, "REDPANDA_USERNAME: REDPANDA_SECURITY=SASL_SSL needs it"),
        (
            {"REDPANDA_SECURITY": "SASL_PLAINTEXT", "REDPANDA_USERNAME": "relay"},
            "REDPANDA_PASSWORD: REDPANDA_SECURITY=SASL_PLAINTEXT needs it",
        ),
        ({"REDPANDA_CA_FILE": "/ca.pem"}, "REDPANDA_CA_FILE: goes with REDPANDA_SECURITY=SASL_SSL or SSL only"),
        (
            {"REDPANDA_SECURITY": "SASL_PLAINTEXT", "REDPANDA_CERT_FILE": "/c.pem", **SASL},
            "REDPANDA_CERT_FILE: goes with REDPANDA_SECURITY=SASL_SSL or SSL only",
        ),
        (
            {"REDPANDA_SECURITY": "SSL", "REDPANDA_KEY_FILE": "/k.pem"},
            "REDPANDA_KEY_FILE: goes with REDPANDA_CERT_FILE only",
        ),
        ({"REDPANDA_SECURITY": "SSL", "REDPANDA_CA_FILE": "/no/ca.pem"}, "REDPANDA_CA_FILE: /no/ca.pem cannot be read"),
        (
            {"REDPANDA_SECURITY": "SSL", "REDPANDA_CERT_FILE": "/no/c.pem"},
            "REDPANDA_CERT_FILE: /no/c.pem cannot be read",
        ),
    ],
)
def test_what_does_not_go_together_is_one_line(monkeypatch: pytest.MonkeyPatch, env: dict[str, str], why: str) -> None:
    with pytest.raises(SettingsError, match=why) as raised:
        settings(monkeypatch, **env)
    assert "\n" not in str(raised.value)
    assert "s3cret" not in str(raised.value)


# What is said about errors


def test_advice_is_found_in_what_an_error_came_from() -> None:
    refused = KafkaConnectionError("closed")
    assert advice(refused) is None
    refused.__cause__ = SaslAuthenticationFailed("wrong")
    assert "REDPANDA_PASSWORD" in (advice(refused) or "")
    assert "REDPANDA_CA_FILE" in (advice(ssl.SSLCertVerificationError("unknown")) or "")
    assert "speaks TLS" in (advice(ConnectionResetError()) or "")
    assert advice(ConnectionResetError(104, "Connection reset by peer")) is None
    assert "REDPANDA_SECURITY" in (advice(ssl.SSLError("wrong version number")) or "")


async def test_what_redpanda_does_not_give_is_said_with_what_to_do() -> None:
    with pytest.raises(BrokerUnavailable, match=r"does not give its topics: .*the relay's user may not"):
        async with bounded(KafkaSettings(_env_file=None), "its topics", 5):
            raise TopicAuthorizationFailedError


def said(name: str, message: str, *args: object) -> str:
    record = logging.LogRecord(name, logging.ERROR, "file.py", 1, message, args, None)
    assert SayWhatToDo("aiokafka").filter(record)
    return record.getMessage()


def test_the_librarys_own_line_says_what_to_do() -> None:
    error = SaslAuthenticationFailed("50% wrong")
    line = said("aiokafka.client", 'Unable connect to "%s:%s": %s', "h", 9092, error)
    assert line.startswith('Unable connect to "h:9092": [Error 58] SaslAuthenticationFailed: 50% wrong (see that')
    assert said("aiokafka.client", "lost %s", OSError("gone")) == "lost gone"
    assert said("another", "lost %s", error) == "lost [Error 58] SaslAuthenticationFailed: 50% wrong"
    assert said("aiokafka", "nothing") == "nothing"
