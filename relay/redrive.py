"""`python -m relay redrive`: dead letters back to where they came from, as new events.

A few letters are read and sent; when every one is acknowledged, the bookmarks are written behind them. So
a run that was interrupted anywhere goes on where it was, and at most those few are put back twice.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError

from relay.batch import NoRecord, Record
from relay.bookmarks import BOOKMARKS_KEY, Bookmarks, Chosen, last_bookmarks, parse_bookmarks
from relay.consumer import FETCH_BYTES, FIND_SECONDS
from relay.letters import Letter, parse_letter
from relay.positions import Ends
from relay.probe import find_undecodable, is_undecodable
from relay.redpanda import bounded, connection
from relay.routes import DEAD_LETTER_TOPIC, Partition
from relay.settings import KafkaSettings
from relay.tally import Tally, looking
from shared.errors import BrokerUnavailable, Undecodable

CLIENT_ID: Final = "notify-redrive"

LETTERS_AT_ONCE: Final = 100
"""As many are put back twice at most, when a run is killed between sending and writing bookmarks."""

READ_SECONDS: Final = 0.5
SAY_EVERY_SECONDS: Final = 5.0

Read = AsyncIterator[tuple[int, Sequence[Record], int]]
"""How many offsets were read, their records (LETTERS_AT_ONCE at most), and the offset behind them."""


@dataclass(frozen=True, slots=True)
class Sorted:
    """What is to be done with some letters of one partition: `put_back` by their place in the dead-letter
    topic; `stuck` are named, each with why; `left` are those of another run."""

    put_back: dict[str, Letter] = field(default_factory=dict)
    stuck: list[tuple[Letter | None, str]] = field(default_factory=list)
    left: int = 0

    @property
    def is_to_be_remembered(self) -> bool:
        """Whether a later run must not come to them again. Bookmarks for less would never end: each run
        would find those of the one before, and write some behind them."""
        return bool(self.put_back or self.stuck)


def sort_letters(partition: int, records: Sequence[Record], chosen: Chosen, marks: Bookmarks, end: int) -> Sorted:
    """Decide for each record: to be put back, impossible to, not of this run, or no letter but bookmarks.
    Pure."""
    put_back: dict[str, Letter] = {}
    stuck: list[tuple[Letter | None, str]] = []
    left = 0
    for record in records:
        if record.offset >= end:
            break
        if parse_bookmarks(record) is not None:
            continue
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
            put_back[name] = letter
    return Sorted(put_back, stuck, left)


def _origin(letter: Letter) -> str:
    return f"from {letter.source.topic}/{letter.source.number}/{letter.offset} ({letter.kind.reason})"


class Redrive:
    """One run. `say` gets lines that stay, `show_progress` one that replaces the one before; it is called
    every `say_every_seconds` at most. `is_told_to_end` ends the run early, with everything remembered that
    was put back; once true it must stay so."""

    def __init__(
        self,
        settings: KafkaSettings,
        chosen: Chosen,
        *,
        say: Callable[[str], None],
        show_progress: Callable[[str], None],
        is_told_to_end: Callable[[], bool],
        say_every_seconds: float = SAY_EVERY_SECONDS,
    ) -> None:
        self._settings = settings
        self._chosen = chosen
        self._say = say
        self._show_progress = show_progress
        self._is_told_to_end = is_told_to_end
        self._say_every_seconds = say_every_seconds
        self._began = self._said_at = 0.0

    async def run(self, *, is_dry_run: bool) -> Tally:
        """Deal with the letters that are there now; those that come meanwhile are for another run, so
        that a letter that is rejected again does not go round. A dry run writes nothing.

        Raises BrokerUnavailable when Redpanda does not do its part; the next run goes on from there.
        """
        async with contextlib.AsyncExitStack() as stack:
            consumer = await stack.enter_async_context(self._consumer())
            producer = None if is_dry_run else await stack.enter_async_context(self._producer())
            self._said_at = time.monotonic()
            ends = await self._ends(consumer)
            marks = await self._bookmarks(consumer, ends)
            starts = {partition: mark.start(self._chosen) for partition, mark in marks.items()}
            tally = Tally(total=sum(ends[partition].end - at for partition, at in starts.items()))
            self._began = time.monotonic()
            for partition, at in starts.items():
                records = self._records(consumer, partition, at, ends[partition].end)
                await self._redrive(producer, partition, records, marks[partition], ends[partition].end, tally)
            return tally

    async def _bookmarks(
        self, consumer: AIOKafkaConsumer, ends: Mapping[TopicPartition, Ends]
    ) -> dict[TopicPartition, Bookmarks]:
        """The last bookmarks of each partition: all of it has to be read for them."""
        marks = {}
        read, total = 0, sum(end.end - end.beginning for end in ends.values())
        for partition, there in ends.items():
            last = Bookmarks(0)
            async for count, rows, _ in self._records(consumer, partition, there.beginning, there.end):
                last = last_bookmarks(rows, there.end) or last
                read += count
                self._show(looking(read, total))
            marks[partition] = last.not_before(there.beginning)
        return marks

    async def _redrive(
        self,
        producer: AIOKafkaProducer | None,
        partition: TopicPartition,
        records: Read,
        marks: Bookmarks,
        end: int,
        tally: Tally,
    ) -> None:
        """Deal with what is read of one partition. Without a producer it is only counted."""
        is_remembering = False
        async for count, rows, at in records:
            sorted_ = sort_letters(partition.partition, rows, self._chosen, marks, end)
            if producer is not None and sorted_.put_back and not is_remembering:
                # Who may not write this finds out before a letter is put back, and not after it in each run.
                await self._remember(producer, partition, marks)
                is_remembering = True
            refused = {} if producer is None else await self._put_back(producer, sorted_.put_back)
            self._count(tally, sorted_, refused)
            if producer is not None and sorted_.is_to_be_remembered:
                marks = marks.moved(self._chosen, at)
                await self._remember(producer, partition, marks)
            tally.read += count
            self._show(tally.progress(time.monotonic() - self._began))

    def _count(self, tally: Tally, sorted_: Sorted, refused: Mapping[str, Letter]) -> None:
        for letter in sorted_.put_back.values():
            tally.put_back[letter.kind] += 1
        for name, letter in refused.items():
            tally.put_back[letter.kind] -= 1
            tally.stuck[letter.kind] += 1
            self._say(f"cannot be put back: {name} {_origin(letter)} is larger than {letter.source.topic} takes now")
        for stuck, why in sorted_.stuck:
            if stuck is None:
                tally.foreign += 1
            else:
                tally.stuck[stuck.kind] += 1
            self._say(f"cannot be put back: {why}")
        tally.left += sorted_.left

    def _show(self, line: str) -> None:
        now = time.monotonic()
        if now - self._said_at >= self._say_every_seconds:
            self._said_at = now
            self._show_progress(line)

    # Redpanda

    async def _ends(self, consumer: AIOKafkaConsumer) -> dict[TopicPartition, Ends]:
        async with self._bounded("the dead-letter topic"):
            # All topics are asked for: a broker may make one that is asked for by name.
            cluster = await consumer._client.fetch_all_metadata()
            partitions = [
                TopicPartition(DEAD_LETTER_TOPIC, number)
                for number in sorted(cluster.partitions_for_topic(DEAD_LETTER_TOPIC) or ())
            ]
            if not partitions:
                raise BrokerUnavailable(f"there is no topic {DEAD_LETTER_TOPIC}: relays make it, or you")
            consumer.assign(partitions)
            beginnings = await consumer.beginning_offsets(partitions)
            ends = await consumer.end_offsets(partitions)
        return {partition: Ends(beginnings[partition], ends[partition]) for partition in partitions}

    async def _records(self, consumer: AIOKafkaConsumer, partition: TopicPartition, at: int, end: int) -> Read:
        """What a partition has from `at` to before `end`, until it is told to end."""
        consumer.assign([partition])
        consumer.seek(partition, at)
        while at < end and not self._is_told_to_end():
            try:
                records, position = await self._next(consumer, partition, at)
            except Undecodable:
                records, position = await self._passed_over(partition, at)
                consumer.seek(partition, position)
            before, at = at, min(position, end)
            yield at - before, records, at

    async def _next(
        self, consumer: AIOKafkaConsumer, partition: TopicPartition, at: int
    ) -> tuple[Sequence[Record], int]:
        """Some records from `at` on, and what is read next. They may be none: what ends a transaction has
        an offset, too. Raises Undecodable; what was read with such a record is to be read again."""
        async with self._bounded("the dead letters"):
            while True:
                try:
                    found = await consumer.getmany(
                        partition, timeout_ms=int(READ_SECONDS * 1000), max_records=LETTERS_AT_ONCE
                    )
                except Exception as error:
                    if is_undecodable(error):
                        raise Undecodable(f"{DEAD_LETTER_TOPIC}/{partition.partition}: {error!r}") from None
                    raise
                if (position := await consumer.position(partition)) != at:
                    return found.get(partition, ()), position

    async def _passed_over(self, partition: TopicPartition, at: int) -> tuple[Sequence[Record], int]:
        """The records from `at` on up to those that cannot be decoded, with something that is no letter in
        place of these, and the offset behind them."""
        async with self._bounded("records that cannot be decoded", FIND_SECONDS):
            gap = await find_undecodable(self._settings, {Partition(*partition): at})
        if gap is None:
            name = f"{DEAD_LETTER_TOPIC}/{partition.partition}"
            raise BrokerUnavailable(f"{name} cannot be decoded from {at} on, although another reader can")
        return [*gap.before, *map(NoRecord, range(gap.first, gap.behind))], gap.behind

    async def _put_back(self, producer: AIOKafkaProducer, letters: Mapping[str, Letter]) -> dict[str, Letter]:
        """Send, and wait until all are acknowledged. Gives those that were too large."""
        answers = await asyncio.gather(*(self._send(producer, letter) for letter in letters.values()))
        refused = [name for name, is_sent in zip(letters, answers, strict=True) if not is_sent]
        # Once more, each by itself: a batch with one that is too large is refused as a whole.
        return {name: letters[name] for name in refused if not await self._send(producer, letters[name])}

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

    async def _remember(self, producer: AIOKafkaProducer, partition: TopicPartition, marks: Bookmarks) -> None:
        async with self._bounded(f"an acknowledgement from {DEAD_LETTER_TOPIC}"):
            # Empty and not null: a compacted topic would forget it.
            await producer.send_and_wait(
                partition.topic, b"", BOOKMARKS_KEY, partition.partition, headers=marks.headers
            )

    @contextlib.asynccontextmanager
    async def _consumer(self) -> AsyncIterator[AIOKafkaConsumer]:
        made = AIOKafkaConsumer(
            **connection(self._settings, CLIENT_ID),
            group_id=None,
            isolation_level="read_committed",
            auto_offset_reset="none",
            enable_auto_commit=False,
            fetch_max_wait_ms=self._settings.redpanda_fetch_wait_ms,
        )
        async with self._started(made) as consumer:
            yield consumer

    @contextlib.asynccontextmanager
    async def _producer(self) -> AsyncIterator[AIOKafkaProducer]:
        made = AIOKafkaProducer(**connection(self._settings, CLIENT_ID), acks="all", max_request_size=FETCH_BYTES)
        async with self._started(made) as producer:
            yield producer

    @contextlib.asynccontextmanager
    async def _started(self, client: Any) -> AsyncIterator[Any]:
        try:
            async with self._bounded("a connection"):
                await client.start()
            yield client
        finally:
            with contextlib.suppress(KafkaError, TimeoutError, OSError):
                async with asyncio.timeout(self._settings.redpanda_timeout_seconds):
                    await client.stop()

    def _bounded(self, what: str, seconds: float | None = None) -> contextlib.AbstractAsyncContextManager[None]:
        # Twice: the producer waits as long for a topic's metadata, and again for the answer.
        return bounded(self._settings, what, seconds or 2 * self._settings.redpanda_timeout_seconds)
