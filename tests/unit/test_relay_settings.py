import pytest

from relay.settings import EventSettings, HistorySettings, KafkaSettings, RelaySettings
from shared.errors import SettingsError
from shared.settings import Settings, load


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(str(tmp_path))  # no .env of the checkout


def test_the_platforms_names_and_defaults() -> None:
    kafka = load(KafkaSettings)
    assert (kafka.redpanda_brokers, kafka.redpanda_group_id) == (("redpanda:9092",), "notification-relay")
    assert kafka.start_from == "latest"
    assert load(EventSettings).max_event_bytes == 65_536
    history = load(HistorySettings)
    assert (history.messages_of("g"), history.messages_of("u0")) == (10_000, 500)
    assert (history.history_seconds, history.rebuild_seconds) == (86_400, 300)
    assert load(RelaySettings).relay_http_port == 9100


def test_several_brokers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDPANDA_BROKERS", "a:9092, [::1]:9093")
    assert load(KafkaSettings).redpanda_brokers == ("a:9092", "[::1]:9093")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("regime_change:reasoning,metadata", {"regime_change": ("reasoning", "metadata")}),
        (" regime_change : a ; risk_alert:b , c ;", {"regime_change": ("a",), "risk_alert": ("b", "c")}),
        ("risk_alert:a;risk_alert:b", {"risk_alert": ("a", "b")}),
        ('{"risk_alert": ["a", "b"]}', {"risk_alert": ("a", "b")}),
        ("", {}),
    ],
)
def test_fields_to_drop(text: str, expected: dict[str, tuple[str, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DROP_FIELDS", text)
    assert load(EventSettings).drop_fields == expected


@pytest.mark.parametrize(
    ("settings", "name", "value"),
    [
        (KafkaSettings, "REDPANDA_BROKERS", "redpanda"),
        (KafkaSettings, "REDPANDA_BROKERS", "redpanda:99999"),
        (KafkaSettings, "REDPANDA_BROKERS", "a:1,b"),
        (KafkaSettings, "REDPANDA_BROKERS", ","),
        (KafkaSettings, "START_FROM", "yesterday"),
        (KafkaSettings, "BATCH_EVENTS", "0"),
        (EventSettings, "MAX_EVENT_BYTES", "many"),
        (EventSettings, "DROP_FIELDS", "reasoning"),
        (EventSettings, "DROP_FIELDS", "regime_change:"),
        (EventSettings, "DROP_FIELDS", "regime_changed:reasoning"),
        (EventSettings, "DROP_FIELDS", "{nope"),
        (HistorySettings, "HISTORY_SECONDS", "-1"),
        (RelaySettings, "RELAY_HTTP_PORT", "70000"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(
    settings: type[Settings], name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name) as caught:
        load(settings)
    assert "\n" not in str(caught.value)
