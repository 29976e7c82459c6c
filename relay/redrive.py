"""`python -m relay redrive`: dead letters back to where they came from, as new events.

A few letters are read and sent; when every one is acknowledged, the bookmarks are committed. So a run
that was interrupted anywhere goes on where it was, and at most those few are put back twice.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError
from aiokafka.structs import OffsetAndMetadata

from relay.batch import Record
from relay.bookmarks import Bookmarks, Chosen, parse_bookmarks
from relay.consumer import FETCH_BYTES
from relay.letters import Letter, parse_letter
from relay.routes import DEAD_LETTER_TOPIC
from relay.settings import KafkaSettings
from relay.tally import Tally
from shared.errors import BrokerUnavailable

LETTERS_AT_ONCE: Final = 100
"""As many are put back twice at most, when a run is killed between sending and committing."""

READ_SECONDS: Final = 0.5
SAY_EVERY_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Sorted:
    """What is to be done with some letters of one partition: `stuck` are named, each with why."""

    put_back: list[Letter] = field(default_factory=list)
    stuck: list[tuple[Letter | None, str]] = field(default_factory=list)
    left: int = 0


def sort_letters(partition: int, records: Sequence[Record], chosen: Chosen, marks: Bookmarks, end: int) -> Sorted:
    """Decide for each record: to be put back, impossible to, or not of this run. Pure."""
    put_back: list[Letter] = []
    stuck: list[tuple[Letter | None, str]] = []
    left = 0
    for record in records:
        if record.offset >= end:
            break
        name = f"{DEAD_LETTER_TOPIC}/{partition}/{record.offset}"
        letter = parse_letter(record)
        if letter is None:
            if chosen.is_everything:
                stuck.append((None, f"{name} is not a letter that a relay wrote"))
        elif record.offset < marks.of(letter.kind):
            continue
        elif letter.kind not in chosen:
            left += 1
        elif letter.value_bytes is not None:
            size = f"{letter.value_bytes} bytes" if letter.value_bytes else "of unknown size"
            stuck.append((letter, f"{name} {_origin(letter)} has no value; the record's was {size}"))
        else:
            put_back.append(letter)
    return Sorted(put_back, stuck, left)


def _origin(letter: Letter) -> str:
    return f"from {letter.source.topic}/{letter.source.number}/{letter.offset} ({letter.kind.reason})"


class Redrive:
    """One run. `say` gets lines that stay, `show_progress` one that replaces the one before; it is
    called every `say_every_seconds` at most."""

    def __init__(
        self,
        settings: KafkaSettings,
        chosen: Chosen,
        *,
        say: Callable[[str], None],
        show_progress: Callable[[str], None],
        say_every_seconds: float = SAY_EVERY_SECONDS,
    ) -> None:
        self._settings = settings
        self._chosen = chosen
        self._say = say
        self._show_progress = show_progress
        self._say_every_seconds = say_every_seconds
        self._said_at = 0.0
        self._began = 0.0

    async def run(self, *, is_dry_run: bool, is_told_to_end: Callable[[], bool]) -> Tally:
        """Deal with the letters that are there now; those that come meanwhile are for another run, so
        that a letter that is rejected again does not go round. Returns earlier, with everything
        committed, when `is_told_to_end`.

        Raises BrokerUnavailable when Redpanda does not do its part; the next run goes on from there.
        """
        async with contextlib.AsyncExitStack() as stack:
            admin = await stack.enter_async_context(self._admin())
            consumer = await stack.enter_async_context(self._consumer())
            producer = None if is_dry_run else await stack.enter_async_context(self._producer())
            marks, ends = await self._marks_and_ends(admin, consumer)
            positions = {partition: mark.start(self._chosen) for partition, mark in marks.items()}
            tally = Tally(total=sum(max(0, ends[partition] - at) for partition, at in positions.items()))
            for partition, at in positions.items():
                consumer.seek(partition, at)
            self._began = self._said_at = time.monotonic()
            while any(positions[partition] < end for partition, end in ends.items()) and not is_told_to_end():
                records = await self._read(consumer, positions, ends)
                for partition, rows in records.items():
                    sorted_ = sort_letters(partition.partition, rows, self._chosen, marks[partition], ends[partition])
                    refused = [] if producer is None else await self._put_back(producer, sorted_.put_back)
                    self._count(tally, sorted_, refused)
                moved = {}
                for partition, before in positions.items():
                    at = min(await consumer.position(partition), ends[partition])
                    if at > before:
                        tally.read += at - before
                        positions[partition] = at
                        moved[partition] = marks[partition] = marks[partition].moved(self._chosen, at)
                if moved and not is_dry_run:
                    await self._commit(consumer, moved)
                self._show(tally)
            return tally

    def _count(self, tally: Tally, sorted_: Sorted, refused: list[Letter]) -> None:
        for letter in sorted_.put_back:
            tally.put_back[letter.kind] += 1
        for letter in refused:
            tally.put_back[letter.kind] -= 1
            tally.stuck[letter.kind] += 1
            self._say(
                f"cannot be put back: the letter {_origin(letter)} is larger than {letter.source.topic} takes now"
            )
        for stuck, why in sorted_.stuck:
            if stuck is None:
                tally.foreign += 1
            else:
                tally.stuck[stuck.kind] += 1
            self._say(f"cannot be put back: {why}")
        tally.left += sorted_.left

    def _show(self, tally: Tally) -> None:
        now = time.monotonic()
        if now - self._said_at >= self._say_every_seconds:
            self._said_at = now
            self._show_progress(tally.progress(now - self._began))

    # Redpanda

    async def _marks_and_ends(
        self, admin: AIOKafkaAdminClient, consumer: AIOKafkaConsumer
    ) -> tuple[dict[TopicPartition, Bookmarks], dict[TopicPartition, int]]:
        async with self._bounded("the dead-letter topic"):
            (topic,) = await admin.describe_topics([DEAD_LETTER_TOPIC])
            partitions = [TopicPartition(DEAD_LETTER_TOPIC, row["partition"]) for row in topic["partitions"]]
            if topic["error_code"] or not partitions:
                raise BrokerUnavailable(f"there is no topic {DEAD_LETTER_TOPIC}: relays make it, or you")
            consumer.assign(partitions)
            beginnings = await consumer.beginning_offsets(partitions)
            ends = await consumer.end_offsets(partitions)
            commits = await admin.list_consumer_group_offsets(self._group_id, partitions=partitions)
        marks = {}
        for partition in partitions:
            try:
                found = parse_bookmarks(commits[partition].offset, commits[partition].metadata or "")
            except ValueError as error:
                raise BrokerUnavailable(f"group {self._group_id} has commits that are not ours: {error}") from None
            marks[partition] = found.within(beginnings[partition], ends[partition])
        return marks, ends

    async def _read(
        self, consumer: AIOKafkaConsumer, positions: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]
    ) -> Mapping[TopicPartition, Sequence[Record]]:
        """Some more records, or a position that moved without (control records have offsets, too)."""
        unfinished = [partition for partition, end in ends.items() if positions[partition] < end]
        async with self._bounded("the dead letters"):
            while True:
                records: Mapping[TopicPartition, Sequence[Record]] = await consumer.getmany(
                    *unfinished, timeout_ms=int(READ_SECONDS * 1000), max_records=LETTERS_AT_ONCE
                )
                if records or any([await consumer.position(p) != positions[p] for p in unfinished]):
                    return records

    async def _put_back(self, producer: AIOKafkaProducer, letters: Sequence[Letter]) -> list[Letter]:
        """Send, and wait until all are acknowledged. Gives those that were too large."""
        answers = await asyncio.gather(*(self._send(producer, letter) for letter in letters))
        return [letter for letter, is_sent in zip(letters, answers, strict=True) if not is_sent]

    async def _send(self, producer: AIOKafkaProducer, letter: Letter) -> bool:
        topic, number = letter.source
        async with self._bounded(f"an acknowledgement from {topic}"):
            # Where it was before, whatever partitioner the producer has, so that a user's events stay together.
            numbers = await producer.partitions_for(topic)
            try:
                await producer.send_and_wait(
                    topic, letter.value, letter.key, number if number in numbers else None, headers=letter.headers
                )
            except (MessageSizeTooLargeError, RecordListTooLargeError):
                return False
        return True

    async def _commit(self, consumer: AIOKafkaConsumer, marks: Mapping[TopicPartition, Bookmarks]) -> None:
        async with self._bounded("a commit"):
            await consumer.commit({p: OffsetAndMetadata(mark.rest, mark.metadata) for p, mark in marks.items()})

    @property
    def _group_id(self) -> str:
        return f"{self._settings.redpanda_group_id}-redrive"

    @contextlib.asynccontextmanager
    async def _admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        async with self._started(AIOKafkaAdminClient(**self._options), "close") as admin:
            yield admin

    @contextlib.asynccontextmanager
    async def _consumer(self) -> AsyncIterator[AIOKafkaConsumer]:
        made = AIOKafkaConsumer(
            **self._options,
            group_id=self._group_id,
            isolation_level="read_committed",
            auto_offset_reset="none",
            enable_auto_commit=False,
            fetch_max_wait_ms=self._settings.redpanda_fetch_wait_ms,
        )
        async with self._started(made, "stop") as consumer:
            yield consumer

    @contextlib.asynccontextmanager
    async def _producer(self) -> AsyncIterator[AIOKafkaProducer]:
        made = AIOKafkaProducer(**self._options, acks="all", max_request_size=FETCH_BYTES)
        async with self._started(made, "stop") as producer:
            yield producer

    @contextlib.asynccontextmanager
    async def _started(self, client: Any, end: str) -> AsyncIterator[Any]:
        try:
            async with self._bounded("a connection"):
                await client.start()
            yield client
        finally:
            with contextlib.suppress(KafkaError, TimeoutError, OSError):
                async with asyncio.timeout(self._settings.redpanda_timeout_seconds):
                    await getattr(client, end)()

    @property
    def _options(self) -> dict[str, Any]:
        return {
            "bootstrap_servers": list(self._settings.redpanda_brokers),
            "client_id": "notify-redrive",
            "request_timeout_ms": int(self._settings.redpanda_timeout_seconds * 1000),
        }

    @contextlib.asynccontextmanager
    async def _bounded(self, what: str) -> AsyncIterator[None]:
        """Translate: whatever goes wrong within, or takes too long, is BrokerUnavailable."""
        brokers = ", ".join(self._settings.redpanda_brokers)
        try:
            # Twice: the producer waits as long for a topic's metadata, and again for the answer.
            async with asyncio.timeout(2 * self._settings.redpanda_timeout_seconds):
                yield
        except (KafkaError, TimeoutError, OSError) as error:
            raise BrokerUnavailable(f"Redpanda at {brokers} does not give {what}: {error!r}") from None
