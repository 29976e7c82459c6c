"""A producer with transactions: its events arrive as all others, and what ends a transaction is nothing that waits."""

import asyncio
import json
import re
import uuid

import pytest
from confluent_kafka import Producer
from harness.stage import Stage
from harness.waiting import eventually


async def test_the_end_of_a_transaction_is_no_lag(stage: Stage) -> None:
    if stage.kind == "embedded":
        pytest.skip("librdkafka's mock cluster writes no ends of transactions: SCENARIO_STACK=real")
    relay, (gateway,) = await stage.start_relay_and_replicas(1)
    client = await stage.connect(stage.users[0], gateway)
    stage.clients.remove(client)  # the oracle knows nothing of these events
    event = json.dumps({"event_type": "risk_alert", "user_id": stage.users[0], "message": "committed"})

    def publish() -> None:
        producer = Producer(
            {"bootstrap.servers": stage.bootstrap, "transactional.id": uuid.uuid4().hex, "log_level": 0}
        )
        producer.init_transactions(30)
        for ends in (producer.abort_transaction, producer.commit_transaction):
            producer.begin_transaction()
            value = event if ends == producer.commit_transaction else event.replace("committed", "aborted")
            producer.produce("risk-events", value, stage.users[0])
            producer.flush(30)
            ends(30)

    await asyncio.to_thread(publish)

    async def nothing_waits() -> bool:
        lag = re.findall(r"^notify_relay_lag_\w+\{.*\} (\S+)$", await stage.metrics(relay), re.MULTILINE)
        return len(lag) == 8 and not any(map(float, lag))

    await eventually(lambda: len(client.frames) == 1, "the event that was committed")
    assert json.loads(client.frames[0])["data"]["message"] == "committed"
    await asyncio.sleep(3)  # lag is measured each second
    await eventually(nothing_waits, "no lag, behind the end of the transaction")
    await client.close()
