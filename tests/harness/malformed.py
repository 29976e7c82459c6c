"""Batches that no producer makes: a broker takes them, and readers cannot decode them."""

import struct
from collections.abc import Sequence

from aiokafka import AIOKafkaProducer
from aiokafka.record.util import calc_crc32c

_CRC_AT, _CHECKED_FROM = 17, 21  # of a batch of the message format's version 2
_NAME = "a-name"


async def send_malformed(bootstrap: str, topic: str, partition: int, values: Sequence[bytes], malformed: int) -> int:
    """Send `values` in one batch; the record `malformed` of them has a header whose name is not UTF-8.
    Gives the offset of the first."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    try:
        batch = producer.create_batch()
        for number, value in enumerate(values):
            headers = [(_NAME, b"")] if number == malformed else []
            assert batch.append(key=None, value=value, timestamp=None, headers=headers) is not None
        data = bytearray(bytes(batch._build()).replace(_NAME.encode(), b"\xff" * len(_NAME)))
        struct.pack_into(">I", data, _CRC_AT, calc_crc32c(bytes(data[_CHECKED_FROM:])))
        batch._buffer = data
        sent = await producer.send_batch(batch, topic, partition=partition)
        return int((await sent).offset)
    finally:
        await producer.stop()
