"""Looks after the relay's reading from outside: are there records that it does not get?"""

import asyncio
import time
from typing import Final

from relay.consumer import Consumer
from relay.publisher import Publisher
from relay.watchdog import Look, Watchdog
from shared.errors import BrokerUnavailable, RelayStopped
from shared.logging import get_logger

LOOK_SECONDS: Final = 2.0

RECENT_SECONDS: Final = 5.0
"""An idle relay asks for records five times a second; one that places itself, or waits, does not."""


class Watch:
    """One for each relay. `has_read` is to be called after each read that could give records; `run` looks
    now and then."""

    def __init__(self, consumer: Consumer, publisher: Publisher) -> None:
        self._consumer = consumer
        self._publisher = publisher
        self._has_looked = False
        self._is_away = False
        self._reads = 0
        self._read_at = 0.0
        self._log = get_logger(__name__)

    @property
    def is_well(self) -> bool:
        """Redpanda answered the last look, and records were asked for not long ago."""
        return not self._is_away and time.monotonic() - self._read_at < RECENT_SECONDS

    @property
    def redpanda_answers(self) -> bool:
        """Redpanda answered the last look; False before the first."""
        return self._has_looked and not self._is_away

    def has_read(self) -> None:
        """The relay asked for records of what it is to read, and got an answer, be it none."""
        self._reads += 1
        self._read_at = time.monotonic()

    async def run(self) -> None:
        """Until cancelled. Raises RelayStopped when nothing is read although it could be."""
        watchdog = Watchdog()
        reads = self._reads
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            before, reads = reads, self._reads
            try:
                positions = await self._consumer.positions() if reads > before else None
                ends = await self._consumer.end_offsets()
                self._has_looked = True
            except BrokerUnavailable as error:
                watchdog.forget()
                if not self._is_away:
                    self._is_away = True
                    self._log.warning("redpanda_does_not_answer", error=str(error))
                continue
            if self._is_away:
                self._is_away = False
                self._log.info("redpanda_answers")
            if not self._publisher.is_up:
                watchdog.forget()
            elif (why := watchdog.look(time.monotonic(), Look(positions, ends, self._consumer.fetched))) is not None:
                raise RelayStopped(why)
