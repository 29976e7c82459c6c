"""Brokers with TLS, users and ACLs (Apache Kafka): the relay needs no more than is documented, and says why not."""

import asyncio

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from harness.certificates import Authority
from harness.dead_letters import DeadLetters
from harness.oracle import DEAD_LETTER_TOPIC, TYPE_OF_TOPIC
from harness.producer import Record
from harness.servers import kafka_password
from harness.stage import Stage
from harness.waiting import eventually

from demo.process import Process

pytestmark = pytest.mark.parametrize("own_broker", ["secured"], indirect=True)

# As docs/tls.md has them.
RELAY_MAY = [
    *((ResourceType.TOPIC, topic, AclOperation.READ) for topic in TYPE_OF_TOPIC),
    (ResourceType.TOPIC, DEAD_LETTER_TOPIC, AclOperation.WRITE),
]
REDRIVE_MAY = [
    (ResourceType.TOPIC, DEAD_LETTER_TOPIC, AclOperation.READ),
    *((ResourceType.TOPIC, topic, AclOperation.WRITE) for topic in (DEAD_LETTER_TOPIC, *TYPE_OF_TOPIC)),
]


def entering(broker: Process, user: str, **more: str) -> dict[str, str]:
    """The settings with which a user enters."""
    folder = broker.log_path.parent / "kafka"
    return {
        "REDPANDA_BROKERS": f"127.0.0.1:{broker.ports['sasl_ssl']}",
        "REDPANDA_SECURITY": "SASL_SSL",
        "REDPANDA_USERNAME": user,
        "REDPANDA_PASSWORD": kafka_password(user),
        "REDPANDA_CA_FILE": str(folder / "ca.pem"),
        **more,
    }


async def allow(stage: Stage, user: str, allowed: list[tuple[ResourceType, str, AclOperation]]) -> None:
    admin = AdminClient({"bootstrap.servers": stage.bootstrap, "log_level": 0})
    bindings = [
        AclBinding(kind, name, ResourcePatternType.LITERAL, f"User:{user}", "*", operation, AclPermissionType.ALLOW)
        for kind, name, operation in allowed
    ]
    for future in admin.create_acls(bindings).values():
        await asyncio.to_thread(future.result, 10)


async def allow_relay(stage: Stage) -> None:
    await allow(stage, "relay", [*RELAY_MAY, (ResourceType.GROUP, stage.group_id, AclOperation.READ)])


def check_no_password_was_said(stage: Stage) -> None:
    for service in stage.relays:
        assert "s3cret" not in service.log(), service.log()


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "PLAIN"])
async def test_events_and_dead_letters_flow_and_are_put_back(
    own_broker_stage: Stage, own_broker: Process, mechanism: str
) -> None:
    stage = own_broker_stage
    await allow_relay(stage)
    await allow(stage, "redrive", REDRIVE_MAY)
    relay = stage.add_relay(env=entering(own_broker, "relay", REDPANDA_SASL_MECHANISM=mechanism))
    gateway = stage.add_gateway()
    await stage.start(relay, gateway)
    await stage.crowd(stage.users, [gateway])
    letters = DeadLetters(stage.bootstrap)
    await stage.producer.publish_mixed(stage.users, 40)
    await stage.producer.send([Record("risk-events", b"not JSON", b"key"), Record("alert-events", b"\xff", None)])
    await stage.exact()
    await letters.wait_for(2)
    letters.close()

    redrive = stage.add_redrive("redrive", env=entering(own_broker, "redrive", REDPANDA_SASL_MECHANISM=mechanism))
    assert await redrive.start().wait(60) in (0, 3), redrive.log()
    assert "put back" in redrive.log()
    await relay.restart()
    await stage.producer.publish_mixed(stage.users, 40)
    await stage.exact()
    for service in (relay, redrive):
        assert "uthoriz" not in service.log(), service.log()
    check_no_password_was_said(stage)


async def test_why_it_is_not_let_in_is_said_until_it_is(own_broker_stage: Stage, own_broker: Process) -> None:
    """Each of them would wait until it is mended, as for a broker that is away."""
    stage = own_broker_stage
    other = Authority(stage.processes.folder, "other")
    wrong = {
        "password": ({"REDPANDA_PASSWORD": "wr0ng-s3cret"}, "SaslAuthenticationFailed", "REDPANDA_PASSWORD"),
        "user": ({"REDPANDA_USERNAME": "eve"}, "SaslAuthenticationFailed", "REDPANDA_USERNAME"),
        "mechanism": ({"REDPANDA_SASL_MECHANISM": "SCRAM-SHA-512"}, "UnsupportedSasl", "REDPANDA_SASL_MECHANISM"),
        "authority": ({"REDPANDA_CA_FILE": str(other.ca_file)}, "CERTIFICATE_VERIFY_FAILED", "REDPANDA_CA_FILE"),
        "name": (
            {"REDPANDA_BROKERS": f"localhost:{own_broker.ports['sasl_ssl']}"}, "mismatch", "the host's name"
        ),
        "plain": ({"REDPANDA_BROKERS": stage.bootstrap}, "Unable connect", "port of the broker speaks TLS"),
    }  # fmt: skip
    relays = [stage.add_relay(name, env=entering(own_broker, "relay", **env)) for name, (env, _, _) in wrong.items()]
    for relay in relays:
        relay.start()
    for relay, (_, happened, to_do) in zip(relays, wrong.values(), strict=True):

        def is_said(relay: Process = relay, happened: str = happened, to_do: str = to_do) -> bool:
            return any(happened in line and to_do in line for line in relay.log().splitlines())

        await eventually(is_said, lambda relay=relay: f"{relay.name} to be said:\n{relay.log()}", seconds=60)
    for relay in relays:
        assert relay.is_running, relay.log()
        assert (await stage.get(relay, "/readyz"))[0] == 503
    check_no_password_was_said(stage)


async def test_what_it_may_not_do_is_said(own_broker_stage: Stage, own_broker: Process) -> None:
    stage = own_broker_stage
    relay = stage.add_relay(env=entering(own_broker, "relay")).start()
    await eventually(lambda: "may not do this with the topic" in relay.log(), "the topics to be named", seconds=60)
    await allow(stage, "relay", RELAY_MAY)
    await eventually(lambda: "may not use REDPANDA_GROUP_ID" in relay.log(), "the group to be named", seconds=60)
    assert relay.is_running, relay.log()
    await allow_relay(stage)
    await relay.wait_until_ready()
    check_no_password_was_said(stage)
