import pytest

from relay.routes import ROUTES, Partition, parse_partition_name, partition_name


def test_each_topic_has_its_type_and_is_for_everyone_or_for_a_user() -> None:
    assert {topic: (route.type, route.is_broadcast) for topic, route in ROUTES.items()} == {
        "regime-events": ("regime_change", True),
        "alert-events": ("market_alert", True),
        "risk-events": ("risk_alert", False),
        "execution-events": ("order_executed", False),
    }


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
