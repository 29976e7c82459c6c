"""The relay: read, decode, publish; begin again where Redis says when an epoch or the assignment changed.

While Redis works on one batch the next one is read and decoded. It is published only when every
call of the one before has succeeded.
"""

import asyncio
import contextlib
import functools
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from relay.batch import Batch, Progress, Record, make_batch, make_gap_batch
from relay.consumer import Consumer
from relay.dead_letters import DeadLetters
from relay.decode import Decode, Reason
from relay.lag import Lag
from relay.positions import (
    Commit,
    Known,
    Start,
    Witness,
    choose_start,
    commit_metadata,
    generations_of,
    is_another_topic,
    is_lost,
    rebuild_from_ms,
    witnesses_of,
)
from relay.publisher import Publisher
from relay.report import Letter, State, state_of
from relay.routes import ROUTES, Partition, partition_name
from relay.settings import EventSettings, HistorySettings, KafkaSettings
from relay.waiting import Waiting
from relay.watch import Watch
from shared.errors import BrokerUnavailable, EpochChanged, RelayStopped, Undecodable
from shared.keys import Keys
from shared.logging import get_logger
from shared.metrics import RelayMetrics

if TYPE_CHECKING:
    from relay.tracing import Traced, Tracing

BEAT_SECONDS: Final = 1.0
COMMIT_SECONDS: Final = 1.0
MEASURE_SECONDS: Final = 1.0
ANEW_LOOKS: Final = 3
"""How often in a row a partition must look made anew before it counts as that: for a moment after a new
leader's election its end may lie behind."""

ANEW_SECONDS: Final = 1.0
"""Between such looks. A new leader knows its end when its followers have fetched once more, which takes
them half a second (replica.fetch.wait.max.ms) when there is nothing new."""

NEWEST_LETTERS: Final = 20
"""Dead letters that are shown to operators."""

REMEMBER_SECONDS: Final = 10.0
"""How often it is looked whether the topics are still those that were read."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Where reading starts in the epochs of `term`, what is committed, and by which record the topic of
    each (partition, generation) is known that is still the one that was read."""

    term: int
    starts: Mapping[Partition, Start]
    commits: Mapping[Partition, Commit | None]
    witnesses: Mapping[tuple[Partition, int], Witness]


class Relay:
    """One relay process's work. `run` it once."""

    def __init__(
        self,
        *,
        consumer: Consumer,
        publisher: Publisher,
        dead_letters: DeadLetters,
        kafka: KafkaSettings,
        events: EventSettings,
        history: HistorySettings,
        keys: Keys,
        metrics: RelayMetrics,
        stop_seconds: float,
        tracing: "Tracing | None" = None,
    ) -> None:
        self._consumer = consumer
        self._publisher = publisher
        self._dead_letters = dead_letters
        self._kafka = kafka
        self._history = history
        self._keys = keys
        self._metrics = metrics
        metrics.expect(topics=ROUTES, reasons=Reason)
        metrics.is_in(State.STARTING, State)
        self._stop_seconds = stop_seconds
        self._tracing = tracing
        self._decode = Decode(events.max_event_bytes, events.drop_fields)
        self._log = get_logger(__name__)
        self._watch = Watch(consumer, publisher)
        self._lag = Lag()
        self.newest_letters: deque[Letter] = deque(maxlen=NEWEST_LETTERS)
        """The last records that were rejected, the newest first."""
        self._term = -1
        self._has_started = False
        self._generations: dict[Partition, int] = {}
        # Where reading started, then how far each assigned partition is published.
        self._positions: dict[Partition, int] = {}
        # Batches with records of each partition that were read and are not published yet.
        self._under_way: Counter[Partition] = Counter()
        # What may be committed, and (generation, offset) that is.
        self._progress: dict[Partition, Progress] = {}
        self._committed: dict[Partition, tuple[int, int]] = {}
        # By which record the topic of each (partition, generation) was known the last time.
        self._remembered: Mapping[tuple[Partition, int], Witness] = {}

    @property
    def not_ready_because(self) -> str | None:
        """None once the relay has joined its group, stored its starts and read from there, be it nothing."""
        if self._has_started:
            return None
        return "waiting for Redpanda and the group" if self._publisher.is_up else "waiting for Redis"

    @property
    def stalled_because(self) -> str | None:
        """None while events go through, or did not begin to."""
        if not self._has_started or self.is_running:
            return None
        return "Redpanda does not answer" if self._publisher.is_up else "Redis does not answer"

    @property
    def is_running(self) -> bool:
        """Events go through: started, and both Redpanda and Redis answer."""
        return self._has_started and self._publisher.is_up and self._watch.is_well

    async def run(self) -> None:
        """Relay until cancelled; then finish the batch under way, commit and leave the group.

        Raises RelayStopped when it cannot go on.
        """
        try:
            await self._publisher.enter()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._beat())
                tasks.create_task(self._commit_now_and_then())
                tasks.create_task(self._measure_now_and_then())
                tasks.create_task(self._remember())
                tasks.create_task(self._relay())
                tasks.create_task(self._watch.run())
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            await self._consumer.stop()
            await self._dead_letters.stop()
            self._publisher.close()

    async def _relay(self) -> None:
        await self._consumer.start()
        publishing: asyncio.Task[None] | None = None
        try:
            while True:
                if self._is_to_place:
                    if publishing is not None:
                        await _finished(publishing)
                        publishing = None
                    await self._place()
                try:
                    records = await self._consumer.read()
                except Undecodable as error:
                    if publishing is not None:
                        await _finished(publishing)
                        publishing = None
                    await self._pass_over(error)
                    continue
                if not self._consumer.is_moved:
                    self._has_started = True
                    self._watch.has_read()
                batch = traced = None
                if records:
                    self._under_way.update(records.keys())
                    traced = None if self._tracing is None else self._tracing.read(records)
                    batch = self._batch(records)
                if publishing is not None and (batch is not None or publishing.done()):
                    await _finished(publishing)
                    publishing = None
                if batch is not None:
                    publishing = asyncio.create_task(self._publish(batch, traced))
                    publishing.add_done_callback(functools.partial(self._is_done_with, tuple(records)))
                    await asyncio.sleep(0)  # let it reach Redis before the next batch is decoded
        finally:
            if publishing is not None:
                await _ended(publishing, self._stop_seconds)
            await self._raise_next()
            await self._commit_progress()

    def _is_done_with(self, partitions: Iterable[Partition], _: asyncio.Task[None]) -> None:
        self._under_way.subtract(partitions)

    async def _raise_next(self) -> None:
        """Leave nothing to be read again, not even a dead letter: whoever comes next may take larger
        ones. Not waited for when Redis is away."""
        if self._publisher.is_up:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._stop_seconds):
                    await self._publisher.beat()

    def _batch(self, records: Mapping[Partition, Sequence[Record]]) -> Batch:
        return make_batch(records, term=self._term, generations=self._generations, decode=self._decode, keys=self._keys)

    @property
    def _is_to_place(self) -> bool:
        if self._consumer.assigned is None:
            return False
        return self._consumer.is_moved or self._publisher.term != self._term

    async def _publish(self, batch: Batch, traced: "Traced | None" = None) -> None:
        self._lag.waits(batch.oldest_ms)
        with contextlib.nullcontext() if traced is None else traced.publishing(batch):
            if batch.dead_letters:
                await self._dead_letters.write(batch.dead_letters)
            published = await self._publisher.publish(batch)
        self._progress.update(batch.progress)
        self._positions.update((partition, progress.next_offset) for partition, progress in batch.progress.items())
        last_ms = {partition: progress.timestamp_ms for partition, progress in batch.progress.items()}
        self._lag.waits({partition: at_ms for partition, at_ms in last_ms.items() if at_ms is not None})
        self._count(batch, published)

    async def _pass_over(self, error: Undecodable) -> None:
        """Make the records that cannot be decoded dead letters, and have reading begin behind them.

        Raises RelayStopped when they are not found: the next read would fail as this one did.
        """
        self._log.error("record_undecodable", error=str(error))
        try:
            gap = await self._consumer.find_undecodable(self._positions)
        except BrokerUnavailable as why:
            raise RelayStopped(f"{error}; {why}") from None
        if gap is None:
            raise RelayStopped(f"{error}, although another reader can")
        with contextlib.suppress(EpochChanged):
            if gap.before:
                await self._publish(self._batch({gap.partition: gap.before}))
            generation = self._generations[gap.partition]
            await self._publish(make_gap_batch(gap, term=self._term, generation=generation))
            await self._publisher.beat()  # raises `next`, from where reading starts again

    def _count(self, batch: Batch, published: list[int]) -> None:
        events = self._metrics.events
        new = dict.fromkeys(batch.read, 0)
        for partition, count in zip(batch.partitions, published, strict=True):
            new[partition.topic] += count
        rejected = dict.fromkeys(batch.read, 0)
        for letter in batch.dead_letters:
            rejected[letter.partition.topic] += 1
            self._metrics.dead_letters.labels(letter.reason.value).inc()
            place = letter.partition.topic, letter.partition.number, letter.record.offset
            self.newest_letters.appendleft(Letter(time.time_ns() // 1_000_000, *place, letter.reason.value))
            self._log.warning(
                "dead_letter",
                topic=letter.partition.topic,
                partition=letter.partition.number,
                offset=letter.record.offset,
                reason=letter.reason.value,
            )
        for topic, read in batch.read.items():
            outcomes = {
                "published": new[topic],
                "skipped": batch.skipped[topic],
                "dead_lettered": rejected[topic],
                "duplicate": read - new[topic] - batch.skipped[topic] - rejected[topic],
            }
            for outcome, count in outcomes.items():
                if count:
                    events.labels(topic, outcome).inc(count)
        self._metrics.batch_events.observe(batch.read.total())

    # Where reading starts

    async def _place(self) -> None:
        """Decide where reading starts, tell Redis, and start there. Returns without, when the
        assignment changes meanwhile."""
        waiting = Waiting(self._log)
        looks: dict[Partition, int] = {}
        while (assigned := self._consumer.assigned) is not None:
            try:
                choice = await self._choose(assigned)
                starts = choice.starts
                anew = sorted(
                    partition_name(partition, start.generation) for partition, start in starts.items() if start.is_anew
                )
                looks = {partition: looks.get(partition, 0) + 1 for partition, start in starts.items() if start.is_anew}
                if any(count < ANEW_LOOKS for count in looks.values()):
                    self._log.warning("topic_looks_made_anew", partitions=anew)
                    await asyncio.sleep(ANEW_SECONDS)
                    continue
                await self._publisher.store_starts(choice.term, starts)
                await self._store_witnesses(choice.witnesses)
                if anew:
                    self._log.error("topic_made_anew", partitions=anew)
                    for partition in looks:
                        self._metrics.topics_made_anew.labels(partition.topic).inc()
            except BrokerUnavailable as error:
                await waiting.wait("redpanda_not_usable", error=str(error))
                continue
            except EpochChanged:
                continue
            self._adopt(choice)
            # Where nothing was committed, the starts are: should Redis lose everything, they are not lost.
            if not await self._commit():
                await waiting.wait("starts_not_committed")
                continue
            forgotten = {
                partition_name(p, start.generation): start.forgotten for p, start in starts.items() if start.forgotten
            }
            if forgotten:
                self._log.error("events_lost_to_retention", offsets=forgotten)
                for partition, start in starts.items():
                    self._metrics.lost_to_retention.labels(partition.topic).inc(start.forgotten)
            self._consumer.seek(self._positions)
            self._log.info(
                "reading",
                starts={partition_name(p, start.generation): start.offset for p, start in sorted(starts.items())},
            )
            return

    async def _choose(self, assigned: frozenset[Partition]) -> Choice:
        consumer = self._consumer
        first_ends = await self._publisher.record_first_start({})
        if not first_ends:
            first_ends = await self._publisher.record_first_start(await consumer.ends_of_all())
        term, lives = await self._publisher.read_lives()
        commits = await consumer.commits(assigned)
        generations = generations_of(assigned, lives.values(), commits)
        times = {
            partition: time_ms
            for partition, generation in generations.items()
            if is_lost(partition, generation, lives)
            and (time_ms := rebuild_from_ms(commits.get(partition), self._history.rebuild_seconds)) is not None
        }
        rebuild = await consumer.offsets_at(times)
        remembered = await self._publisher.read_witnesses()
        witnesses = {
            partition: witnesses_of(partition, generation, commits.get(partition), remembered)
            for partition, generation in generations.items()
        }
        timestamps = await consumer.timestamps_of(
            [(partition, witness.offset) for partition, found in witnesses.items() for witness in found]
        )
        ends = await consumer.ends(assigned)
        starts = {
            partition: choose_start(
                partition,
                Known(
                    generation=generations[partition],
                    ends=ends[partition],
                    next_offsets=lives,
                    commit=commits.get(partition),
                    first_end=first_ends.get(partition),
                    rebuild=rebuild.get(partition),
                    is_another=is_another_topic(partition, witnesses[partition], timestamps),
                ),
                self._kafka.start_from,
            )
            for partition in assigned
        }
        known = {
            (partition, start.generation): witnesses[partition][0]
            for partition, start in starts.items()
            if witnesses[partition] and not start.is_anew
        }
        return Choice(term, starts, commits, known)

    def _adopt(self, choice: Choice) -> None:
        starts = choice.starts
        self._term = choice.term
        self._generations = {partition: start.generation for partition, start in starts.items()}
        self._positions = {partition: start.offset for partition, start in starts.items()}
        self._committed = {
            partition: (commit.generation, commit.offset)
            for partition, commit in choice.commits.items()
            if commit is not None
        }
        self._progress = {
            partition: Progress(start.commit, None) for partition, start in starts.items() if start.commit is not None
        }
        self._remembered = choice.witnesses
        self._lag.keep(starts)
        self._metrics.partitions_assigned.set(len(starts))

    # Once a second

    async def _beat(self) -> None:
        while True:
            await self._publisher.beat()
            await asyncio.sleep(BEAT_SECONDS)

    async def _commit_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(COMMIT_SECONDS)
            await self._commit_progress()

    async def _measure_now_and_then(self) -> None:
        """Not behind a commit: what is measured is wanted most when Redpanda does not answer."""
        while True:
            self._metrics.is_in(state_of(self)[0], State)
            self._metrics.redpanda_up.set(self._watch.redpanda_answers)
            self._measure_lag(await self._read_to())
            await asyncio.sleep(MEASURE_SECONDS)

    async def _remember(self) -> None:
        """Remember a record of each partition, and look now and then whether the topics are still those
        that were read; only then is a record replaced by a later one.

        A topic that is deleted and made again under a relay is mostly noticed by its reading, which
        fails. Made again fast, and filled beyond our position, it is noticed here.
        """
        looked_at = time.monotonic()
        while True:
            await asyncio.sleep(COMMIT_SECONDS)
            if self._consumer.is_moved:
                continue
            before = self._remembered
            witnesses = {
                (partition, generation): Witness(progress.next_offset - 1, progress.timestamp_ms)
                for partition, generation in self._generations.items()
                if (progress := self._progress.get(partition)) is not None and progress.timestamp_ms is not None
            }
            if time.monotonic() - looked_at >= REMEMBER_SECONDS:
                if not await self._are_topics_the_same(before):
                    continue
                looked_at = time.monotonic()
            else:
                witnesses = {which: witness for which, witness in witnesses.items() if which not in before}
            await self._store_witnesses(witnesses)
            if self._remembered is before:  # else the assignment changed meanwhile
                self._remembered = {**before, **witnesses}

    async def _store_witnesses(self, witnesses: Mapping[tuple[Partition, int], Witness]) -> None:
        await self._publisher.store_witnesses({partition_name(*which): w for which, w in witnesses.items()})

    async def _are_topics_the_same(self, witnesses: Mapping[tuple[Partition, int], Witness]) -> bool:
        """False when that cannot be said, or when they are not: `_place` looks again then, and decides."""
        try:
            timestamps = await self._consumer.timestamps_of([(p, w.offset) for (p, _), w in witnesses.items()])
        except BrokerUnavailable:
            return False
        if any(is_another_topic(partition, [witness], timestamps) for (partition, _), witness in witnesses.items()):
            self._consumer.is_moved = True
            return False
        return True

    async def _commit_progress(self) -> None:
        # A partition that was another's meanwhile may be committed further than we know until we look.
        if not self._consumer.is_moved:
            await self._commit()

    async def _commit(self) -> bool:
        """Commit what is not committed yet. False when that failed, to be tried again."""
        due = {
            partition: (self._generations[partition], progress.next_offset, progress.timestamp_ms)
            for partition, progress in self._progress.items()
            if partition in self._generations
            and (self._generations[partition], progress.next_offset) > self._committed.get(partition, (0, -1))
        }
        offsets = {
            partition: (offset, commit_metadata(generation, time_ms))
            for partition, (generation, offset, time_ms) in due.items()
        }
        if not due:
            return True
        if not await self._consumer.commit(offsets):
            return False
        self._committed.update((partition, (generation, offset)) for partition, (generation, offset, _) in due.items())
        return True

    async def _read_to(self) -> Mapping[Partition, int]:
        """What the consumer reads next: further than the last record where that is followed by what is none, as the
        ends of transactions."""
        with contextlib.suppress(BrokerUnavailable):
            return await self._consumer.positions() or {}
        return {}

    def _measure_lag(self, read_to: Mapping[Partition, int]) -> None:
        records: dict[str, int] = dict.fromkeys(ROUTES, 0)
        seconds: dict[str, float] = dict.fromkeys(ROUTES, 0.0)
        now_ms = time.time_ns() // 1_000_000
        for partition, position in self._positions.items():
            topic, end = partition.topic, self._consumer.highwater(partition)
            if not self._under_way[partition]:  # all that was read of it is published
                position = max(position, read_to.get(partition, position))
            if end is not None:
                records[topic] += max(0, end - position)
            is_behind = None if end is None else end > position
            seconds[topic] = max(seconds[topic], self._lag.seconds(now_ms, partition, is_behind=is_behind))
        for topic in ROUTES:
            self._metrics.lag_records.labels(topic).set(records[topic])
            self._metrics.lag_seconds.labels(topic).set(seconds[topic])


async def _finished(publishing: asyncio.Task[None]) -> None:
    """Wait for a batch; our being cancelled does not cancel it. What was read in an epoch that has
    ended is dropped here, and read again."""
    await asyncio.wait({publishing})
    with contextlib.suppress(EpochChanged):
        publishing.result()


async def _ended(publishing: asyncio.Task[None], timeout_seconds: float) -> None:
    """Give the last batch a while, then cancel it: it will be read again."""
    await asyncio.wait({publishing}, timeout=timeout_seconds)
    publishing.cancel()
    await asyncio.gather(publishing, return_exceptions=True)
