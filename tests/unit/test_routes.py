import pytest

from relay.routes import ROUTES, Audience, Partition, parse_partition_name, partition_name
from shared.message import EVENT_TYPES


def test_each_topic_has_its_type_and_audience() -> None:
    assert {topic: (route.type, route.audience) for topic, route in ROUTES.items()} == {
        "regime-events": ("regime_change", Audience.EVERYONE),
        "alert-events": ("market_alert", Audience.EVERYONE),
        "risk-events": ("risk_alert", Audience.USER),
        "execution-events": ("order_executed", Audience.USER),
    }


def test_the_types_are_those_of_the_message_format() -> None:
    assert {route.type.encode() for route in ROUTES.values()} == EVENT_TYPES


@pytest.mark.parametrize(
    ("generation", "name"), [(1, "risk-events/2"), (2, "risk-events~2/2"), (10, "risk-events~10/2")]
)
def test_a_partition_names_its_generation_from_the_second_on(generation: int, name: str) -> None:
    partition = Partition("risk-events", 2)
    assert partition_name(partition, generation) == name
    assert parse_partition_name(name) == (partition, generation)


@pytest.mark.parametrize("name", ["", "risk-events", "/2", "risk-events/", "risk-events/x", "risk-events~/x"])
def test_what_is_no_partition_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_partition_name(name)
