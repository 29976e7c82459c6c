"""Records that are no events: none stops the relay, none is lost."""

from harness.dead_letters import DeadLetters
from harness.malformed import send_malformed
from harness.oracle import Event
from harness.producer import Headers, Record
from harness.stage import Stage

HEADERS: Headers = [("trace", b"\x00\xff"), ("trace", b"again"), ("nothing", None)]

POISON = [
    ("regime-events", b"\xff\xfe{}"),
    ("regime-events", '{"n":"utf-16"}'.encode("utf-16-le")),
    ("regime-events", b'\xef\xbb\xbf{"n":"byte order mark"}'),
    ("regime-events", b""),
    ("regime-events", b"{"),
    ("regime-events", b'["a list"]'),
    ("regime-events", b'{"confidence":NaN}'),
    ("regime-events", b'{"confidence":-Infinity}'),
    ("regime-events", b'{"confidence":1e999}'),
    ("alert-events", b'{"message":"\\ud800"}'),
    ("alert-events", b'{"\\udc00":1}'),
    ("alert-events", b'{"message":"\xed\xa0\x80"}'),
    ("alert-events", b'{"pad":"' + b"x" * 65_536 + b'"}'),
    ("alert-events", b'{"deep":' + b"[" * 64 + b"]" * 64 + b"}"),
    ("alert-events", b"[" * 60_000),
    ("risk-events", b'{"severity":"high"}'),
    ("risk-events", b'{"user_id":null}'),
    ("risk-events", b'{"user_id":true}'),
    ("risk-events", b'{"user_id":1.5}'),
    ("risk-events", b'{"user_id":""}'),
    ("execution-events", b'{"user_id":"' + b"u" * 129 + b'"}'),
    ("execution-events", b'{"user_id":"a\\u0000b"}'),
    ("execution-events", b'{"user_id":' + b"9" * 5_000 + b"}"),
    ("execution-events", b'{"user_id":["ann"]}'),
]

SKIPPED = [
    ("regime-events", None),
    ("risk-events", b'{"user_id":"ann","event_type":"order_executed"}'),
    ("alert-events", b'{"event_type":"something_else"}'),
]


async def test_poison_is_dead_lettered_as_it_came_and_the_relay_goes_on(stage: Stage) -> None:
    relay, (gateway,) = await stage.start_relay_and_replicas(1)
    await stage.crowd(stage.users, [gateway])
    dead_letters = DeadLetters(stage.bootstrap)
    try:
        sent = [Record(topic, value, b"key-%d" % n, HEADERS, n % 4) for n, (topic, value) in enumerate(POISON)]
        skipped = [Record(topic, value, b"skipped", partition=0) for topic, value in SKIPPED]
        async with stage.load(stage.users) as load:
            for record in (*sent, *skipped):
                await stage.producer.send([record])
            await load.more(100)
        await stage.exact()
        got = await dead_letters.wait_for(len(sent))
    finally:
        dead_letters.close()

    assert relay.is_running
    by_key = {record.key: record for record in got}
    for record in sent:
        letter = by_key.pop(record.key, None)
        assert letter is not None, f"no dead letter for {record}"
        assert letter.value == record.value
        assert list(letter.headers[: len(HEADERS)]) == list(HEADERS)
        added = {value for _, value in letter.headers[len(HEADERS) :] if value is not None}
        assert {record.topic.encode(), b"%d" % record.partition, b"%d" % record.offset} <= added
    assert not by_key, f"dead letters that nobody expected: {by_key}"


async def test_poison_at_the_head_of_every_partition_survives_a_restart(stage: Stage) -> None:
    relay, (gateway,) = await stage.start_relay_and_replicas(1)
    await stage.crowd(stage.users, [gateway])
    dead_letters = DeadLetters(stage.bootstrap)
    try:
        sent = [
            Record(topic, b"not json %d" % number, b"%s-%d" % (topic.encode(), number), partition=number)
            for topic in ("regime-events", "alert-events", "risk-events", "execution-events")
            for number in range(4)
        ]
        await stage.producer.send(sent)
        await relay.kill()
        await relay.restart()
        await stage.producer.publish_mixed(stage.users, 40)
        await stage.exact()
        got = await dead_letters.wait_for(len(sent))
    finally:
        dead_letters.close()
    assert {letter.key for letter in got} == {record.key for record in sent}  # twice is allowed, never not at all


async def test_a_batch_that_cannot_be_decoded_is_passed_by_name_and_reading_goes_on_behind_it(stage: Stage) -> None:
    relay, (gateway,) = await stage.start_relay_and_replicas(1)
    await stage.crowd(stage.users, [gateway])
    dead_letters = DeadLetters(stage.bootstrap)
    try:
        await stage.producer.publish("alert-events", partition=1)
        # aiokafka decodes a batch from its beginning: of four records the first reaches clients.
        before = await stage.producer.publish("alert-events", partition=1)
        values = [b'{"message":"malformed %d"}' % number for number in range(4)]
        first = await send_malformed(stage.bootstrap, "alert-events", 1, values, malformed=1)
        assert first == before.offset + 1
        stage.oracle.add(Event("alert-events", 1, first, None, values[0]))
        await stage.producer.publish_mixed(stage.users, 40)
        await stage.exact()
        again = await send_malformed(stage.bootstrap, "alert-events", 1, values[1:], malformed=0)
        await stage.exact()
        got = await dead_letters.wait_for(6)
    finally:
        dead_letters.close()
    assert relay.is_running
    lost = [*range(first + 1, first + 4), *range(again, again + 3)]
    headers = [dict(letter.headers) for letter in got]
    assert sorted({int(header["dlq-offset"] or b"") for header in headers}) == lost
    assert {header["dlq-reason"] for header in headers} == {b"undecodable"}
    assert {letter.value for letter in got} == {b""}
