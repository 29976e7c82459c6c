"""Publishes one event to the running demo, or to any brokers.

python -m demo.send --type risk_alert --user user-123
python -m demo.send --type market_alert --set message="Trading in TSLA is halted" --set severity=critical
"""

import argparse
import asyncio
import json
import sys
from datetime import UTC, datetime
from uuid import uuid4

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from demo.events import TOPIC_OF_TYPE, Event, Stamp, market_alert, order_executed, regime_change, risk_alert
from demo.place import running_demo

_SEND_SECONDS = 15.0


def example(type_: str, user_id: str, stamp: Stamp) -> Event:
    """A typical event of a type; `user_id` matters to the types that are for one user."""
    match type_:
        case "regime_change":
            return regime_change(
                stamp, previous="sideways", new="bull", confidence=0.85, reasoning="breadth widens, volatility falls"
            )
        case "market_alert":
            return market_alert(stamp, alert_type="volatility", severity="high", message="VIX rises above 30")
        case "risk_alert":
            return risk_alert(
                stamp, user_id=user_id, risk_type="drawdown", severity="high", message="down 5.2% from its peak"
            )
        case "order_executed":
            return order_executed(
                stamp,
                user_id=user_id,
                order_id=f"order-{stamp.event_id.hex[:8]}",
                symbol="AAPL",
                side="buy",
                qty=10,
                filled_qty=10,
                filled_avg_price="227.48",
            )
    raise ValueError(f"{type_!r} is none of {', '.join(TOPIC_OF_TYPE)}")


def with_fields(event: Event, changes: list[str]) -> Event:
    """The event with `name=value` fields set; a value is a string. Raises ValueError."""
    fields = json.loads(event.value)
    for change in changes:
        name, equals, value = change.partition("=")
        if not name or not equals:
            raise ValueError(f"--set {change!r}: takes name=value")
        fields[name] = value
    return Event(event.topic, event.key, json.dumps(fields, ensure_ascii=False).encode())


async def publish(brokers: str, event: Event) -> str:
    """Send one event and give its id, `topic/partition/offset`. Raises KafkaError, TimeoutError."""
    async with asyncio.timeout(_SEND_SECONDS):
        producer = AIOKafkaProducer(bootstrap_servers=brokers, acks="all")
        await producer.start()
        try:
            sent = await producer.send_and_wait(event.topic, event.value, key=event.key)
        finally:
            await producer.stop()
    return f"{sent.topic}/{sent.partition}/{sent.offset}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.send", description="Publishes one event to the running demo.")
    parser.add_argument("--type", choices=sorted(TOPIC_OF_TYPE), default="risk_alert", help="(risk_alert)")
    parser.add_argument("--user", default="user-123", help="for whom, if it is for one user (user-123)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a field's value; repeatable")
    parser.add_argument("--brokers", help="host:port of the Kafka brokers (the running demo's)")
    options = parser.parse_args()
    place = running_demo()
    brokers = options.brokers or (place and place.brokers)
    if not brokers:
        sys.exit("No demo runs from this checkout: start `make demo`, or name --brokers host:port.")
    try:
        event = with_fields(example(options.type, options.user, Stamp(uuid4(), datetime.now(UTC))), options.set)
        print(f"{asyncio.run(publish(brokers, event))}  {event.value.decode()}")
    except ValueError as error:
        sys.exit(str(error))
    except (KafkaError, TimeoutError) as error:
        sys.exit(f"{brokers} did not take it: {error or 'no answer in time'}")


if __name__ == "__main__":
    main()
