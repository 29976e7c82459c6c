"""Records of the four topics, as bytes, with the assignment's changes made plain.

aiokafka joins, fetches ahead and rebalances by itself. What it may hand out between an assignment
and our `seek` (from a committed offset, say) is never let through: `read` gives records only of an
assignment whose starts were set.
"""

import asyncio
import contextlib
import inspect
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    TopicAuthorizationFailedError,
)
from aiokafka.structs import OffsetAndMetadata

from relay.batch import Gap, Record
from relay.positions import Commit, Ends, Place, parse_commit
from relay.probe import find_undecodable, is_undecodable, timestamps_of
from relay.redpanda import bounded, connection, with_advice
from relay.routes import ROUTES, Partition, partition_name
from relay.settings import KafkaSettings
from relay.waiting import Waiting
from shared.errors import BrokerUnavailable, RelayStopped, Undecodable
from shared.logging import get_logger
from shared.metrics import RelayMetrics

CLIENT_ID: Final = "notify-relay"

READ_SECONDS: Final = 0.2
"""How long `read` waits for a record, and so for how long an idle relay overlooks a new epoch."""

FETCH_BYTES: Final = 16 * 1024 * 1024
"""What one broker may send at once; as much is fetched ahead."""

GIVE_UP_SECONDS: Final = 30.0
"""For how long each read may fail before the relay leaves it to its supervisor."""

JOIN_SECONDS: Final = 180.0
"""The same while the group forms, which may take it several rounds."""

CALM_SECONDS: Final = 5.0
"""For how long reads must succeed until a failure counts as over. One partition may fail each time
that it is fetched while reads of the others succeed in between."""

FIND_SECONDS: Final = 60.0
"""For how long an undecodable record may be looked for; a large batch is tried offset by offset."""

METADATA_MS: Final = 30_000
"""How old the list of partitions may be: a new partition is read after so long, from its beginning."""


class Consumer(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is untyped for us
    """One member of the group. `start`, then: when `is_moved` and `assigned` is known, look and
    `seek`; `read` in any case.

    `assigned` is None before the first assignment and during each rebalance. `is_moved` is set
    until `seek` has said where to start with what is assigned.
    """

    def __init__(self, settings: KafkaSettings, metrics: RelayMetrics) -> None:
        self.assigned: frozenset[Partition] | None = None
        self.is_moved = True
        self._settings = settings
        self._round_trip_seconds = metrics.redpanda_round_trip_seconds
        self._is_started = False
        self._failing_since: float | None = None
        self._calm_since: float | None = None
        self._log = get_logger(__name__)
        self._kafka: AIOKafkaConsumer | None = None
        self._admin: AIOKafkaAdminClient | None = None

    async def start(self) -> None:
        """Wait until Redpanda and the four topics are there, and ask to join the group. The first
        assignment comes later. May be cancelled; `stop` afterwards in any case."""
        await self._patiently(self._connect)
        await self._patiently(self._partitions_of_all)
        assert self._kafka is not None
        self._kafka.subscribe(list(ROUTES), listener=self)
        self._is_started = True

    async def read(self) -> Mapping[Partition, Sequence[Record]]:
        """The next records, at most `batch_events`, each partition's in the order of its offsets;
        none after 0.2 s without, and during a rebalance.

        Nothing when `is_moved` is set, which a failure does too: aiokafka may have given records of
        other partitions to the call that failed, and would go on behind them. Raises Undecodable for a
        record that is malformed (`find_undecodable` says which), RelayStopped for what else does not
        mend by itself.
        """
        assert self._kafka is not None
        try:
            # The inner wait does not end while a rebalance goes on; the outer one does.
            async with asyncio.timeout(READ_SECONDS + 1):
                records = await self._kafka.getmany(
                    timeout_ms=int(READ_SECONDS * 1000), max_records=self._settings.batch_events
                )
        except TimeoutError:  # aiokafka takes records out of its buffer only in the step that returns them
            return {}
        except (OffsetOutOfRangeError, NoOffsetForPartitionError) as error:
            if not self.is_moved:
                self._log.warning("position_lost", error=repr(error))
                self.is_moved = True
            return {}
        except Exception as error:
            self.is_moved = True
            if is_undecodable(error):
                raise Undecodable(f"{self._unreadable()} cannot be decoded: {error!r}") from None
            await self._failed_to_read(error)
            return {}
        self._read_well()
        if self._kafka._fetcher.error_future.done():  # aiokafka itself tells nobody
            raise RelayStopped("aiokafka has stopped fetching")
        if self.is_moved:
            return {}
        return {Partition(*partition): rows for partition, rows in records.items()}

    async def ends_of_all(self) -> dict[Partition, int]:
        """The end offset of every partition of the four topics. Raises BrokerUnavailable."""
        partitions = await self._partitions_of_all()
        return {partition: ends.end for partition, ends in (await self.ends(partitions)).items()}

    async def ends(self, partitions: Iterable[Partition]) -> dict[Partition, Ends]:
        """Where each partition begins and ends now. Raises BrokerUnavailable."""
        assert self._kafka is not None
        wanted = [TopicPartition(*partition) for partition in partitions]
        async with self._bounded("its offsets"):
            beginnings = await self._kafka.beginning_offsets(wanted)
            ends = await self._kafka.end_offsets(wanted)
        return {Partition(*partition): Ends(beginnings[partition], ends[partition]) for partition in wanted}

    async def end_offsets(self) -> dict[Partition, int]:
        """The end of each assigned partition, or while none is of every one. Raises BrokerUnavailable."""
        if self._kafka is None or not self._is_started:
            raise BrokerUnavailable("not connected to Redpanda yet")
        wanted = [TopicPartition(*partition) for partition in self.assigned or await self._partitions_of_all()]
        async with self._bounded("its offsets"):
            asked_at = time.monotonic()
            ends = await self._kafka.end_offsets(wanted)
        self._round_trip_seconds.labels("ends").observe(time.monotonic() - asked_at)
        return {Partition(*partition): end for partition, end in ends.items()}

    async def positions(self) -> dict[Partition, int] | None:
        """What is read next of each assigned partition; None when it is not known where to read."""
        if self._kafka is None or self.assigned is None or self.is_moved:
            return None
        async with self._bounded("positions"):
            try:
                return {
                    partition: await self._kafka.position(TopicPartition(*partition)) for partition in self.assigned
                }
            except IllegalStateError:  # a rebalance has begun; it is a KafkaError, too
                return None

    @property
    def fetched(self) -> frozenset[Partition]:
        """Partitions of which records were fetched that `read` has not given yet."""
        return (
            frozenset(Partition(*partition) for partition in self._kafka._fetcher._records)
            if self._kafka
            else frozenset()
        )

    async def commits(self, partitions: Iterable[Partition]) -> dict[Partition, Commit | None]:
        """What the group has committed. Raises BrokerUnavailable."""
        assert self._admin is not None
        wanted = [TopicPartition(*partition) for partition in partitions]
        if not wanted:
            return {}
        async with self._bounded("the group's commits"):
            found = await self._admin.list_consumer_group_offsets(self._settings.redpanda_group_id, partitions=wanted)
        return {
            Partition(*partition): parse_commit(committed.offset, committed.metadata or "")
            for partition, committed in found.items()
        }

    async def offsets_at(self, times_ms: Mapping[Partition, int]) -> dict[Partition, int | None]:
        """The first offset not older than a time, for each partition; None when the broker cannot
        say, or has nothing as young. Raises BrokerUnavailable."""
        assert self._kafka is not None
        if not times_ms:
            return {}
        async with self._bounded("offsets by time"):
            found = await self._kafka.offsets_for_times(
                {TopicPartition(*partition): time_ms for partition, time_ms in times_ms.items()}
            )
        return {Partition(*partition): at.offset if at else None for partition, at in found.items()}

    async def timestamps_of(self, places: Collection[Place]) -> dict[Place, int]:
        """The timestamps of the records at these places, where there are any. Raises BrokerUnavailable."""
        if not places:
            return {}
        async with self._bounded("records that were read before"):
            return await timestamps_of(self._settings, places)

    async def find_undecodable(self, positions: Mapping[Partition, int]) -> Gap | None:
        """The first records from `positions` on that cannot be decoded, and those before them, read once
        more over another connection. None when all can be decoded. Raises BrokerUnavailable."""
        try:
            async with asyncio.timeout(FIND_SECONDS):
                return await find_undecodable(self._settings, positions)
        except (KafkaError, TimeoutError, OSError) as error:
            raise BrokerUnavailable(f"records that cannot be decoded were not found: {error!r}") from None

    def seek(self, offsets: Mapping[Partition, int]) -> None:
        """Set where reading starts. `is_moved` stays set when the assignment is not `offsets`' any more."""
        assert self._kafka is not None
        if self.assigned is None or offsets.keys() != self.assigned:
            return
        try:
            for partition, offset in offsets.items():
                self._kafka.seek(TopicPartition(*partition), offset)
        except IllegalStateError:  # a rebalance has begun; its listener has not been called yet
            return
        self.is_moved = False

    async def commit(self, offsets: Mapping[Partition, tuple[int, str]]) -> bool:
        """Commit offsets with their metadata, those of partitions that are still ours. False when it
        failed, which is normal in a rebalance: nothing depends on a commit being made at once."""
        assert self._kafka is not None
        ours = {
            TopicPartition(*partition): OffsetAndMetadata(*commit)
            for partition, commit in offsets.items()
            if partition in (self.assigned or ())
        }
        if not ours:
            return True
        asked_at = time.monotonic()
        try:
            async with asyncio.timeout(self._settings.redpanda_timeout_seconds):
                await self._kafka.commit(ours)
        except (CommitFailedError, IllegalStateError):
            return False
        except (KafkaError, TimeoutError) as error:
            self._log.warning("commit_failed", error=with_advice(error))
            return False
        self._round_trip_seconds.labels("commit").observe(time.monotonic() - asked_at)
        return True

    def highwater(self, partition: Partition) -> int | None:
        """The partition's end as its last fetch told; None when there was none yet."""
        if self._kafka is None or self.assigned is None or partition not in self.assigned:
            return None
        try:
            end: int | None = self._kafka.highwater(TopicPartition(*partition))
        except (IllegalStateError, AssertionError, AttributeError, KeyError):  # in the middle of a rebalance
            return None
        return end

    async def stop(self) -> None:
        """Leave the group and disconnect, within REDPANDA_TIMEOUT_SECONDS. May be called always."""
        ends = [self._kafka.stop] if self._kafka is not None else []
        ends += [self._admin.close] if self._admin is not None else []
        self._kafka = self._admin = None
        for end in ends:
            with contextlib.suppress(KafkaError, TimeoutError, OSError):
                async with asyncio.timeout(self._settings.redpanda_timeout_seconds):
                    await end()

    # ConsumerRebalanceListener

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:  # noqa: ARG002 - its name is aiokafka's
        self.assigned = None
        self.is_moved = True

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        self.assigned = frozenset(Partition(*partition) for partition in assigned)
        self.is_moved = True
        self._log.info("partitions_assigned", partitions=self._assigned_names)

    @property
    def _assigned_names(self) -> str:
        return ", ".join(map(partition_name, sorted(self.assigned or ())))

    async def _failed_to_read(self, error: Exception) -> None:
        """Most of these mend, by joining again for example. Raises RelayStopped for one that does not."""
        now = time.monotonic()
        self._calm_since = None
        if self._failing_since is None:
            self._failing_since = now
            self._log.warning("redpanda_read_failed", what=self._unreadable(), error=with_advice(error))
        limit_seconds = JOIN_SECONDS if self.assigned is None else GIVE_UP_SECONDS
        if now - self._failing_since > limit_seconds:
            what = self._unreadable()
            why = with_advice(error)
            raise RelayStopped(f"{what} cannot be read from Redpanda for {limit_seconds:g} s: {why}") from None
        await asyncio.sleep(READ_SECONDS)

    def _read_well(self) -> None:
        if self._failing_since is None:
            return
        now = time.monotonic()
        if self._calm_since is None:
            self._calm_since = now
        elif now - self._calm_since > CALM_SECONDS:
            self._failing_since = self._calm_since = None

    def _unreadable(self) -> str:
        """Which record could not be read, as far as aiokafka can tell: its errors seldom name one, but
        the iterator that raised is still in its buffer, ended, beside the offset that it came to."""
        assert self._kafka is not None
        for partition, result in self._kafka._fetcher._records.items():
            records = getattr(result, "_partition_records", None)
            iterator = getattr(records, "_records_iterator", None)
            if records is not None and iterator is not None and inspect.getgeneratorstate(iterator) == "GEN_CLOSED":
                return f"{partition_name(Partition(*partition))} at offset {records.next_fetch_offset}"
        return f"one of {self._assigned_names or 'no partitions'}"

    async def _patiently(self, attempt: Callable[[], Awaitable[object]]) -> None:
        waiting = Waiting(self._log)
        while True:
            try:
                await attempt()
            except BrokerUnavailable as error:
                await waiting.wait("redpanda_not_usable", error=str(error))
            else:
                waiting.over("redpanda_usable")
                return

    async def _connect(self) -> None:
        settings = self._settings
        session_ms = int(settings.redpanda_session_seconds * 1000)
        self._kafka = AIOKafkaConsumer(
            **connection(settings, CLIENT_ID),
            group_id=settings.redpanda_group_id,
            isolation_level="read_committed",
            auto_offset_reset="none",
            enable_auto_commit=False,
            fetch_max_bytes=FETCH_BYTES,
            fetch_max_wait_ms=settings.redpanda_fetch_wait_ms,
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=session_ms // 5,
            metadata_max_age_ms=METADATA_MS,
        )
        self._admin = AIOKafkaAdminClient(**connection(settings, CLIENT_ID), metadata_max_age_ms=METADATA_MS)
        try:
            async with self._bounded("a connection"):
                await self._kafka.start()
                await self._admin.start()
        except BaseException:
            await self.stop()
            raise

    async def _partitions_of_all(self) -> list[Partition]:
        """Every partition of the four topics; asking by name makes them where the broker allows it."""
        assert self._admin is not None
        async with self._bounded("its topics"):
            topics = await self._admin.describe_topics(list(ROUTES))
        found = {topic["topic"]: topic["partitions"] for topic in topics if not topic["error_code"]}
        for topic in topics:
            if topic["error_code"] == TopicAuthorizationFailedError.errno:
                raise BrokerUnavailable(f"{topic['topic']}: {with_advice(TopicAuthorizationFailedError())}")
        if missing := [topic for topic in ROUTES if not found.get(topic)]:
            raise BrokerUnavailable(f"topics are missing: {', '.join(missing)}")
        return sorted(Partition(topic, row["partition"]) for topic, rows in found.items() for row in rows)

    def _bounded(self, what: str) -> contextlib.AbstractAsyncContextManager[None]:
        return bounded(self._settings, what, self._settings.redpanda_timeout_seconds)
