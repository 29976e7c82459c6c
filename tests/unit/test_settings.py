"""How settings are read: from the environment, then `.env`; a wrong one is one line that says all."""

import resource
from pathlib import Path
from typing import Any

import pytest
from harness.certificates import Authority
from pydantic import Field, SecretStr, ValidationError

from gateway.settings import (
    FEW_CONNECTIONS,
    FILE_RESERVE,
    AdmissionSettings,
    AuthenticationSettings,
    ConnectionSettings,
    DrainSettings,
    ListenerSettings,
    OperatorSettings,
)
from shared.errors import SettingsError
from shared.settings import CommaSeparated, RedisSettings, ServiceSettings, Settings, load

ALL = (
    ServiceSettings,
    RedisSettings,
    ListenerSettings,
    AuthenticationSettings,
    AdmissionSettings,
    ConnectionSettings,
    DrainSettings,
)


@pytest.fixture(autouse=True)
def _nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder and none of our variables."""
    monkeypatch.chdir(tmp_path)
    for settings in ALL:
        for name in settings.model_fields:
            monkeypatch.delenv(name.upper(), raising=False)


def error_of(settings: type[Settings]) -> str:
    with pytest.raises(SettingsError) as raised:
        load(settings)
    text = str(raised.value)
    assert "\n" not in text
    assert raised.value.__cause__ is None
    return text


class Concern(Settings):
    """For what no real settings have yet."""

    concern_hosts: CommaSeparated = ("default",)
    concern_password: SecretStr = SecretStr("")
    concern_seconds: float = Field(1.0, ge=1, le=10)


# Defaults


def test_the_platforms_own_names_and_defaults() -> None:
    assert load(ServiceSettings).service_name == "notification"
    assert load(ServiceSettings).log_level == "INFO"
    assert (load(ListenerSettings).ws_host, load(ListenerSettings).ws_port) == ("0.0.0.0", 8000)
    assert (load(OperatorSettings).admin_host, load(OperatorSettings).admin_port) == ("127.0.0.1", 8001)
    redis = load(RedisSettings)
    assert redis.redis_url.get_secret_value() == "redis://redis:6379/0"
    assert (redis.keys.prefix, redis.keys.user_buckets) == ("notify", 1)
    assert str(redis.deployment) == "redis:6379"
    connection = load(ConnectionSettings)
    assert (connection.slow_client_bytes, connection.max_buffered_bytes) == (1_048_576, 268_435_456)
    assert (connection.ping_interval_seconds, connection.ping_timeout_seconds) == (25, 10)
    drain = load(DrainSettings)
    assert (drain.drain_delay_seconds, drain.drain_seconds) == (5, 20)
    assert load(AuthenticationSettings).auth_mode is None


@pytest.mark.parametrize("settings", ALL, ids=lambda settings: settings.__name__)
def test_every_setting_says_what_it_is_for(settings: type[Settings]) -> None:
    for name, field in settings.model_fields.items():
        assert field.description, name


# Where they come from


def test_the_environment_comes_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("WS_PORT=7001\nADMIN_PORT=7002\nUNKNOWN=1\n")
    monkeypatch.setenv("WS_PORT", "7000")
    assert (load(ListenerSettings).ws_port, load(OperatorSettings).admin_port) == (7000, 7002)


def test_empty_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("WS_PORT=\nAUTH_MODE=\n")
    monkeypatch.setenv("ADMIN_PORT", "")
    monkeypatch.setenv("CONCERN_HOSTS", "")
    assert (load(ListenerSettings).ws_port, load(OperatorSettings).admin_port) == (8000, 8001)
    assert load(AuthenticationSettings).auth_mode is None
    assert load(Concern).concern_hosts == ("default",)


def test_a_file_that_is_not_utf_8_is_said_in_one_line() -> None:
    Path(".env").write_bytes(b"SERVICE_NAME=caf\xe9\n")
    assert error_of(ServiceSettings).startswith("the settings cannot be read")


def test_settings_do_not_change() -> None:
    settings = load(ServiceSettings)
    with pytest.raises(ValidationError):
        settings.service_name = "other"


@pytest.mark.parametrize("name", ["JWT_ISSUER", "AUTH_COOKIE", "JWT_SECRET", "ALLOW_QUERY_TOKEN"])
def test_what_speaks_of_tokens_without_a_mode_is_said(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "true")
    assert f"{name} is set, but AUTH_MODE is not" in error_of(AuthenticationSettings)


# Lists


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("a", ("a",)),
        ("a,b", ("a", "b")),
        (" a , b ,", ("a", "b")),
        ('["a","b,c"]', ("a", "b,c")),
        (' ["a"] ', ("a",)),
        ("[]", ()),
        (",", ()),
    ],
)
def test_a_list_is_json_or_comma_separated(text: str, items: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCERN_HOSTS", text)
    assert load(Concern).concern_hosts == items


@pytest.mark.parametrize("text", ['["a"', "[1, 2]", '[["a"]]'])
def test_a_list_that_is_none_is_said(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCERN_HOSTS", text)
    assert error_of(Concern).startswith("CONCERN_HOSTS")


# Errors


@pytest.mark.parametrize(
    ("settings", "name", "value", "takes"),
    [
        (ServiceSettings, "LOG_LEVEL", "LOUD", "takes DEBUG, INFO, WARNING or ERROR"),
        (ServiceSettings, "LOG_FORMAT", "xml", "takes console or json"),
        (ListenerSettings, "WS_PORT", "80000", "65535"),
        (ListenerSettings, "WS_PORT", "http", "integer"),
        (ListenerSettings, "WS_PORT", "8000\n9000", "integer"),
        (OperatorSettings, "ADMIN_PORT", "-1", "greater than or equal to 0"),
        (AuthenticationSettings, "AUTH_MODE", "yes", "none"),
        (AdmissionSettings, "MAX_HEAD_BYTES", "10", "1024"),
        (AdmissionSettings, "MAX_CONNECTIONS", "0", "greater than or equal to 1"),
        (ConnectionSettings, "SLOW_CLIENT_BYTES", "1k", "integer"),
        (ConnectionSettings, "PING_INTERVAL_SECONDS", "61", "60"),
        (RedisSettings, "REDIS_USER_BUCKETS", "0", "1"),
        (RedisSettings, "REDIS_PREFIX", "a{b}", "takes a word without braces and white space"),
        (RedisSettings, "REDIS_PREFIX", "a b", "takes a word without braces and white space"),
        (RedisSettings, "REDIS_TIMEOUT_SECONDS", "0", "greater than 0"),
        (RedisSettings, "REDIS_TIMEOUT_SECONDS", "nan", ""),
        (DrainSettings, "DRAIN_SECONDS", "1.5", "integer"),
        (Concern, "CONCERN_SECONDS", "11", "10"),
    ],
)
def test_a_wrong_setting_is_one_line_with_its_name_what_it_got_and_what_it_takes(
    settings: type[Settings], name: str, value: str, takes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    text = error_of(settings)
    assert text.startswith(f"{name}={value!r}: ")
    assert takes in text
    assert "Value error" not in text


@pytest.mark.parametrize("url", ["localhost", "http://ann:s3cret@h", "redis://ann:s3cret@h:99999", "s3cret"])
def test_a_wrong_address_is_not_repeated_since_it_may_hold_a_password(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    text = error_of(RedisSettings)
    assert text.startswith("REDIS_URL: takes redis://host:port/db")
    assert "s3cret" not in text


@pytest.mark.parametrize(
    ("url", "cluster", "why"),
    [
        ("redis://ann:s3cret@h:1,i:2", "false", "set REDIS_CLUSTER=true"),
        ("redis://ann:s3cret@h/2", "true", "database 0"),
        ("redis+sentinel://ann:s3cret@h", "false", "no master"),
        ("redis://ann:s3cret@h/abc", "false", "no database's number"),
        ("redis+sentinel://ann:s3cret@h/m/abc", "false", "no database's number"),
        ("redis://ann:s3cret@h:0", "false", "port 0"),
    ],
)
def test_an_address_that_does_not_go_with_the_rest_says_why(
    url: str, cluster: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    monkeypatch.setenv("REDIS_CLUSTER", cluster)
    text = error_of(RedisSettings)
    assert text.startswith("REDIS_URL: takes redis://host:port/db")
    assert why in text
    assert "s3cret" not in text


def test_no_secret_is_in_what_is_printed_of_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://ann:s3cret@h")
    settings = load(RedisSettings)
    assert (
        "s3cret" not in f"{settings} {settings!r} {settings.deployment} {settings.deployment!r} {settings.model_dump()}"
    )


def test_the_address_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "rediss://ann:s3cret@h")  # with a TLS context, which is dear
    settings = load(RedisSettings)
    assert settings.deployment is settings.deployment
    assert "deployment" not in settings.model_dump()


def test_a_long_value_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WS_PORT", "x" * 10_000)
    assert len(error_of(ListenerSettings)) < 250


# Together with the machine


def limit(monkeypatch: pytest.MonkeyPatch, files: int) -> None:
    """A limit of open files as `raise_open_file_limit` leaves it: the soft one is the hard one."""

    def getrlimit(_: Any) -> tuple[int, int]:
        return (files, files)

    monkeypatch.setattr(resource, "getrlimit", getrlimit)


@pytest.mark.parametrize(
    ("files", "connections"),
    [
        (resource.RLIM_INFINITY, 20_000),
        (1_000_000, 20_000),
        (1_024, 1_024 - FILE_RESERVE),
        (FILE_RESERVE + 1, 1),
    ],
)
def test_as_many_connections_as_the_limit_of_open_files_allows(
    files: int, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, files)
    assert load(AdmissionSettings).connection_limit == connections


@pytest.mark.parametrize(("files", "few"), [(1_024, 1_024), (FILE_RESERVE + FEW_CONNECTIONS, None)])
def test_few_open_files_are_to_be_said_unless_few_clients_were_asked_for(
    files: int, few: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, files)
    assert load(AdmissionSettings).few_files == few
    monkeypatch.setenv("MAX_CONNECTIONS", "10")
    assert load(AdmissionSettings).few_files is None


def test_more_connections_than_open_files_are_refused_with_the_name_and_the_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit(monkeypatch, 1_024)
    monkeypatch.setenv("MAX_CONNECTIONS", "25")
    assert error_of(AdmissionSettings) == "MAX_CONNECTIONS=25: at most 24 with a limit of 1024 open files"
    monkeypatch.setenv("MAX_CONNECTIONS", "24")
    assert load(AdmissionSettings).connection_limit == 24


@pytest.mark.parametrize("files", [100, FILE_RESERVE])
def test_a_machine_with_hardly_any_open_files_is_told_so_by_their_number(
    files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, files)
    assert error_of(AdmissionSettings).startswith(f"the limit of open files is {files}; raise it")


# TLS of the listener


def test_tls_is_off_unless_a_certificate_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert load(ListenerSettings).tls is None
    ours = Authority(tmp_path).issue("gateway")
    monkeypatch.setenv("TLS_CERT_FILE", str(ours.chain_file))
    assert load(ListenerSettings).tls is not None


@pytest.mark.parametrize(
    ("env", "why"),
    [
        ({"TLS_KEY_FILE": "/k.pem"}, "TLS_KEY_FILE: goes with TLS_CERT_FILE only"),
        ({"TLS_KEY_PASSWORD": "s3cret"}, "TLS_KEY_PASSWORD: goes with TLS_CERT_FILE only"),
        ({"TLS_CERT_FILE": "/no/c.pem"}, "TLS_CERT_FILE: /no/c.pem cannot be read: No such file or directory"),
    ],
)
def test_what_is_wrong_with_tls_is_one_line(env: dict[str, str], why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert error_of(ListenerSettings) == why


def test_who_may_act_is_said_safely(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(OperatorSettings).guard.acts == "off"
    monkeypatch.setenv("ADMIN_TOKEN", "short-secret")
    assert "short-secret" not in error_of(OperatorSettings)
    monkeypatch.setenv("ADMIN_TOKEN", "long-secret " * 4)
    assert "long-secret" not in error_of(OperatorSettings)
    monkeypatch.setenv("ADMIN_TOKEN", "t" * 32)
    monkeypatch.setenv("ADMIN_HOSTS", "Console.Internal, other")
    guard = load(OperatorSettings).guard
    assert (guard.token, guard.hosts, guard.acts) == (b"t" * 32, {"console.internal", "other"}, "token")
    assert "t" * 32 not in repr(load(OperatorSettings))


@pytest.mark.parametrize(
    "demo", ["http://evil.example:1", "https://127.0.0.1:1", "http://127.0.0.1:1 *", "http://127.0.0.1"]
)
def test_the_demo_of_a_console_is_on_this_machine(monkeypatch: pytest.MonkeyPatch, demo: str) -> None:
    monkeypatch.setenv("CONSOLE_DEMO", demo)
    assert "CONSOLE_DEMO" in error_of(OperatorSettings)


@pytest.mark.parametrize(
    ("host", "is_taken"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("10.0.0.1", False)],
)
def test_acting_without_a_token_is_for_this_machine_only(
    monkeypatch: pytest.MonkeyPatch, host: str, is_taken: bool
) -> None:
    monkeypatch.setenv("ADMIN_OPEN", "true")
    monkeypatch.setenv("ADMIN_HOST", host)
    if is_taken:
        assert load(OperatorSettings).guard.acts == "open"
    else:
        assert "ADMIN_OPEN" in error_of(OperatorSettings)
