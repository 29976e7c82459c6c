"""A device says how far it has got, and goes on from there, on any replica, however long it was away."""

import asyncio

from harness.stage import Stage
from harness.v1 import Place, V1Client
from harness.waiting import eventually

from demo.process import Process

DEVICES = 16  # of a user


async def acknowledged(stage: Stage, client: V1Client, cursor: str) -> None:
    """Say an ack, and wait until Redis has it."""
    await client.say({"control": "ack", "cursor": cursor})
    device = client.query["device"]
    await eventually(
        lambda: stage.redis_control.acks(stage.prefix, client.user).get(device) == cursor,
        lambda: (
            f"{cursor} of {device}: {stage.redis_control.acks(stage.prefix, client.user)}, {client.knowledge.controls}"
        ),
    )


async def started(stage: Stage) -> list[Process]:
    _, replicas = await stage.start_relay_and_replicas(2)
    return replicas


def forgetful(client: V1Client) -> V1Client:
    """It asks for its last ack, as an app does that was started anew."""
    client.query["cursor"] = "ack"
    client.resumes = False
    return client


async def test_orders_executed_while_a_device_was_offline_arrive_once(stage: Stage) -> None:
    replicas = await started(stage)
    ann = stage.users[0]
    phone = await stage.connect_v1(ann, replicas[0], device="phone")
    tablet = await stage.connect_v1(ann, replicas[1], device="tablet")
    await stage.producer.publish_mixed([ann], 40)
    await stage.everything_arrived()
    await acknowledged(stage, phone, phone.knowledge.cursor_text)
    await phone.drop()
    for _ in range(30):
        await stage.producer.publish("execution-events", ann)
    # Else the last of them might not be published yet, and would come live.
    await stage.everything_arrived([tablet])
    had = len(phone.frames)
    await forgetful(phone).resume(replicas[1].port, replicas[1].name)
    assert phone.welcome["recovered"]
    assert phone.welcome["replayed"] == 30
    await stage.exact()
    assert len(phone.frames) >= had + 30
    assert not phone.knowledge.said("resync")


async def test_an_ack_only_rises_and_one_past_the_top_is_an_error(stage: Stage) -> None:
    replicas = await started(stage)
    ann = stage.users[0]
    phone = await stage.connect_v1(ann, replicas[0], device="phone")
    await stage.producer.publish_mixed([ann], 40)
    await stage.everything_arrived()
    newest, (everyone, own) = phone.knowledge.cursor_text, (phone.knowledge.cursor[one] for one in ("global", "user"))
    await acknowledged(stage, phone, newest)

    def cursor(everyone: Place, own: Place) -> str:
        return f"{everyone.epoch}.{everyone.seq}.{own.epoch}.{own.seq}"

    lower = cursor(Place(everyone.epoch, everyone.seq - 5), Place(own.epoch, own.seq - 5))
    await phone.say({"control": "ack", "cursor": lower})
    for number, bad in enumerate(
        (
            cursor(everyone, Place(own.epoch, own.seq + 1)),
            cursor(Place(everyone.epoch, everyone.seq + 1), own),
            cursor(Place("nobodys", 1), own),
            "garbage",
        ),
        start=1,
    ):
        await phone.say({"control": "ack", "cursor": bad})
        assert (await phone.told("error", number))["code"] == "bad_cursor", bad
    # What was said before would be written by the time that something said later is.
    tablet = await stage.connect_v1(ann, replicas[0], device="tablet")
    await acknowledged(stage, tablet, newest)
    assert stage.redis_control.acks(stage.prefix, ann)["phone"] == newest
    # Nor may another replica, which has not heard what this one did, take it back.
    await phone.drop()
    await phone.resume(replicas[1].port, replicas[1].name)
    await phone.say({"control": "ack", "cursor": lower})
    await tablet.drop()
    await tablet.resume(replicas[1].port, replicas[1].name)
    await stage.producer.publish_mixed([ann], 8)
    await stage.everything_arrived()
    await acknowledged(stage, tablet, tablet.knowledge.cursor_text)
    assert stage.redis_control.acks(stage.prefix, ann)["phone"] == newest
    await stage.exact()


async def test_an_ack_without_a_device_is_an_error(stage: Stage) -> None:
    replicas = await started(stage)
    client = await stage.connect_v1(stage.users[0], replicas[0])
    await client.say({"control": "ack", "cursor": client.knowledge.cursor_text})
    assert (await client.told("error"))["code"] == "no_device"
    client.query["cursor"] = "ack"
    client.resumes = False
    await client.drop()
    await client.open()
    assert await client.ended() == 4503
    stage.clients.remove(client)
    await client.close()


async def test_one_device_too_many_takes_the_place_of_the_oldest(stage: Stage) -> None:
    replicas = await started(stage)
    ann = stage.users[0]
    witness = await stage.connect_v1(ann, replicas[0])
    await stage.producer.publish_mixed([ann], 8)
    await stage.everything_arrived([witness])
    for number in range(DEVICES + 1):
        client = await stage.connect_v1(ann, replicas[number % 2], device=f"device-{number:02}")
        await acknowledged(stage, client, client.knowledge.cursor_text)
        stage.clients.remove(client)
        await client.close()
    left = sorted(stage.redis_control.acks(stage.prefix, ann))
    assert left == [f"device-{number:02}" for number in range(1, DEVICES + 1)]


async def test_acks_are_written_at_most_once_a_second(stage: Stage) -> None:
    replicas = await started(stage)
    ann = stage.users[0]
    phone = await stage.connect_v1(ann, replicas[0], device="phone")
    loop, written = asyncio.get_running_loop(), set[str]()
    began = loop.time()
    async with stage.load([ann]) as load:
        said = 0
        # A machine that is busy may do so few rounds a second that there is nothing to be held back.
        while len(written) < 3 or (said <= 2 * len(written) and loop.time() - began < 60):
            await load.more(20)
            await phone.say({"control": "ack", "cursor": phone.knowledge.cursor_text})
            said += 1
            written |= set(stage.redis_control.acks(stage.prefix, ann).values())
    assert len(written) <= loop.time() - began + 2
    assert said > 2 * len(written)
    assert not phone.knowledge.said("error")
    await stage.exact()
