"""Topic to type, and to whether its events are for everyone (DESIGN section 2)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from shared.message import BROADCAST_TOPICS, TYPE_OF_TOPIC


class Route(NamedTuple):
    """What the events of one topic are: for everyone, or for the user that each one names."""

    type: str
    is_broadcast: bool


class Partition(NamedTuple):
    """One partition of a topic. Equal to any (topic, number) tuple."""

    topic: str
    number: int


ROUTES: Final[Mapping[str, Route]] = MappingProxyType(
    {topic: Route(type_, topic in BROADCAST_TOPICS) for topic, type_ in TYPE_OF_TOPIC.items()}
)
DEAD_LETTER_TOPIC: Final = "notification-dead-letters"


def partition_name(partition: Partition, generation: int = 1) -> str:
    """The partition's name in keys and ids: `risk-events/2`, or `risk-events~2/2` once the topic
    was deleted and made again (generation 2 and up)."""
    topic = partition.topic if generation == 1 else f"{partition.topic}~{generation}"
    return f"{topic}/{partition.number}"


def parse_partition_name(name: str) -> tuple[Partition, int]:
    """The reverse of `partition_name`. Raises ValueError when it is not one."""
    topic, _, number = name.rpartition("/")
    # `~` cannot be in a topic's name: Kafka allows only letters, digits, `.`, `_` and `-`.
    topic, _, generation = topic.partition("~")
    if not topic:
        raise ValueError("not a partition's name")
    return Partition(topic, int(number)), int(generation or 1)
