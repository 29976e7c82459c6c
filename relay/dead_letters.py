"""Rejected records to the dead-letter topic: as they came, with where from and why beside them."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError

from relay.batch import DeadLetter
from relay.consumer import CLIENT_ID, FETCH_BYTES
from relay.letters import Headers, bare_headers, whole_headers
from relay.redpanda import connection, with_advice
from relay.routes import DEAD_LETTER_TOPIC
from relay.settings import KafkaSettings
from relay.waiting import Waiting
from shared.errors import RelayStopped
from shared.logging import get_logger

GIVE_UP_SECONDS: Final = 30.0
"""For how long letters are tried: a broker's restart takes less."""


class DeadLetters:
    """Writes dead letters. One for each relay; connects when the first letter comes.

    The relay gives up on letters after 30 s of trying to write them.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._log = get_logger(__name__)
        self._producer: AIOKafkaProducer | None = None

    async def write(self, letters: Sequence[DeadLetter]) -> None:
        """Return when every letter is acknowledged by all replicas. One may be written twice, when
        an acknowledgement was lost.

        Raises RelayStopped when the topic cannot be written.
        """
        waiting = Waiting(self._log)
        left = list(letters)
        began = time.monotonic()
        while True:
            try:
                producer = await self._connected()
                failures = await asyncio.gather(*(self._send(producer, letter) for letter in left))
            except (KafkaError, OSError, TimeoutError) as failed:
                failures = [failed] * len(left)
            left = [letter for letter, failure in zip(left, failures, strict=True) if failure is not None]
            if not left:
                waiting.over("dead_letters_written")
                return
            error = next(failure for failure in failures if failure is not None)
            seconds = time.monotonic() - began
            if seconds >= GIVE_UP_SECONDS:
                first = left[0]
                raise RelayStopped(
                    f"{DEAD_LETTER_TOPIC} cannot be written for {seconds:.0f} s ({with_advice(error)}), "
                    f"and {first.partition.topic}/{first.partition.number}/{first.record.offset} ({first.reason}) "
                    "must go there: see that the topic exists and may be written"
                )
            await waiting.wait("dead_letters_not_written", error=with_advice(error), letters=len(left))

    async def stop(self) -> None:
        """Disconnect, within REDPANDA_TIMEOUT_SECONDS. May be called always."""
        if self._producer is not None:
            producer, self._producer = self._producer, None
            with contextlib.suppress(KafkaError, TimeoutError, OSError):
                async with asyncio.timeout(self._settings.redpanda_timeout_seconds):
                    await producer.stop()

    async def _connected(self) -> AIOKafkaProducer:
        if self._producer is None:
            self._producer = AIOKafkaProducer(
                **connection(self._settings, CLIENT_ID),
                acks="all",
                max_request_size=FETCH_BYTES,  # so that the broker, not we, says what is too large
            )
            try:
                async with asyncio.timeout(self._settings.redpanda_timeout_seconds):
                    await self._producer.start()
            except BaseException:
                await self.stop()
                raise
        return self._producer

    async def _send(self, producer: AIOKafkaProducer, letter: DeadLetter) -> Exception | None:
        """Send one letter, whole or bare. Gives why it failed, None when it is acknowledged."""
        record = letter.record
        try:
            try:
                if record.value is not None:
                    await self._sent(producer, record.value, record.key, whole_headers(letter))
                    return None
            except (MessageSizeTooLargeError, RecordListTooLargeError):
                pass
            await self._sent(producer, b"", None, bare_headers(letter))
        except (KafkaError, OSError, TimeoutError) as error:
            return error
        return None

    async def _sent(self, producer: AIOKafkaProducer, value: bytes, key: bytes | None, headers: Headers) -> Any:
        # Twice: the producer waits as long for the topic's metadata, and again for the answer.
        async with asyncio.timeout(2 * self._settings.redpanda_timeout_seconds):
            return await producer.send_and_wait(DEAD_LETTER_TOPIC, value, key, headers=headers)
