"""The real Stream, Hub and History in a world where everything fails, thousands of times over."""

from collections.abc import Callable, Mapping
from typing import Any

import delivery_model
import msgspec
import pytest
from delivery_model import Faults

import gateway.audience
import gateway.history
from gateway.stream import Filled, Meta, Stream, Verdict
from shared.message import Message

SEEDS = 1_500
SEEDS_TO_FIND_A_MISTAKE = 600


class Silence:
    """Holes are on purpose here; thousands of log lines are not."""

    def error(self, event: str, **_: object) -> None: ...


@pytest.fixture(autouse=True)
def _silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.history, "log", Silence())


def first_failure(seeds: int, faults: Faults) -> str | None:
    return next((wrong for seed in range(seeds) if (wrong := delivery_model.run(seed, faults))), None)


@pytest.mark.parametrize("page_messages", [1, 3, 200])
def test_clients_get_everything_once_and_in_order_whatever_fails(page_messages: int) -> None:
    assert first_failure(SEEDS // 3, Faults(page_messages=page_messages)) is None


def test_what_a_short_log_has_lost_is_said_and_nothing_comes_twice() -> None:
    assert first_failure(SEEDS // 5, Faults(log_length=4)) is None


def test_every_part_of_the_stream_was_needed_in_these_worlds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model would prove nothing if nothing happened in it."""
    seen: dict[str, int] = {}

    class Watched(Stream):
        def receive(self, message: Message) -> Verdict:
            verdict = super().receive(message)
            seen[verdict.name] = seen.get(verdict.name, 0) + 1
            return verdict

        def fill(self, meta: Meta, read_from: int, page: Any) -> Filled:
            filled = super().fill(meta, read_from, page)
            for name, happened in {
                "page that was not the last": not filled.complete,
                "forked": self.epoch in meta.forks,
                "filled": bool(filled.push),
                "repeated": len(filled.push) < len(page),
            }.items():
                seen[name] = seen.get(name, 0) + happened
            return filled

    monkeypatch.setattr(gateway.audience, "Stream", Watched)
    assert first_failure(100, Faults()) is None
    assert min(seen.values()) > 20, seen
    assert len(seen) == 8


# Mistakes that the model must find


class WithoutWatermark(Stream):
    """Everything with a new seq is pushed."""

    def _take(self, message: Message) -> bool:
        super()._take(message)
        return True


class WithoutFork(Stream):
    """After an epoch has ended the log is read on from the same seq."""

    def read_from(self, meta: Meta) -> int:
        return self.seq


class WithoutEpoch(Stream):
    """Seqs of different epochs are taken for one sequence."""

    def receive(self, message: Message) -> Verdict:
        return super().receive(msgspec.structs.replace(message, epoch=self.epoch))


class WithoutHolding(Stream):
    """Live messages are taken while the log is read."""

    def begin_fill(self) -> bool:
        return True


class WithoutReleasing(Stream):
    """What was held while the log was read is forgotten."""

    def _release(self) -> list[Message]:
        self._held = None
        return []


class WithoutSecondPage(Stream):
    """One page is taken for the whole log."""

    def fill(self, meta: Meta, read_from: int, page: Any) -> Filled:
        filled = super().fill(meta, read_from, page)
        if self._held is not None:
            self.epoch, self.seq, self._held = meta.epoch, meta.seq, None
        return Filled(filled.push, complete=True, hole=filled.hole)


class WithoutStart(Stream):
    """A new stream takes what was published before it was joined."""

    def join(self, meta: Meta, next_offsets: Mapping[bytes, int]) -> list[Message]:
        return super().join(meta, {})


class WatermarkAlsoRisesWithoutDelivery(Stream):
    """Joining anew takes the place of Redis for that of the clients."""

    def begin_fill(self) -> bool:
        self._next = {partition: offset + 1 for partition, offset in self._next.items()}
        return super().begin_fill()


class HoldsWhatRevealedAGap(Stream):
    """A late message of an epoch that is over asks for the log for ever."""

    def receive(self, message: Message) -> Verdict:
        verdict = super().receive(message)
        if verdict is Verdict.FETCH:
            self._held = [message]
        return verdict


@pytest.mark.parametrize(
    ("mistake", "found_as"),
    [
        (WithoutWatermark, ("duplicate",)),
        (WithoutFork, ("missing", "never catch up")),
        (WithoutEpoch, ("missing",)),
        (WithoutHolding, ("missing", "disorder", "never catch up")),
        (WithoutReleasing, ("missing",)),
        (WithoutSecondPage, ("missing",)),
        (WithoutStart, ("too many",)),
        (WatermarkAlsoRisesWithoutDelivery, ("missing",)),
        (HoldsWhatRevealedAGap, ("never catch up",)),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_the_model_finds_a_mistake(
    mistake: Callable[[], Stream], found_as: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.audience, "Stream", mistake)
    wrong = first_failure(SEEDS_TO_FIND_A_MISTAKE, Faults())
    assert wrong is not None
    assert any(kind in wrong for kind in found_as), wrong
