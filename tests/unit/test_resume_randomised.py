"""Clients that drop and resume on any replica while everything fails, hundreds of times over."""

import asyncio
from collections.abc import Callable

import pytest
import resume_model
from delivery_model import Faults

import gateway.history
import gateway.replay
from gateway.cursor import Position
from gateway.replay import Replay, Track
from gateway.stream import Stream

SEEDS = 400
SEEDS_TO_FIND_A_MISTAKE = 800


class Silence:
    """Broken replays are on purpose here."""

    def __getattr__(self, name: str) -> object:
        return lambda *_, **__: None


@pytest.fixture(autouse=True)
def _quick_and_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.history, "log", Silence())
    monkeypatch.setattr(gateway.replay, "log", Silence())
    monkeypatch.setattr(gateway.replay, "POLL_SECONDS", 0)
    monkeypatch.setattr(gateway.replay, "SUSPECT_SECONDS", -1)


def first_failure(seeds: int, faults: Faults) -> str | None:
    async def search() -> str | None:
        for seed in range(seeds):
            wrong, _ = await resume_model.run(seed, faults)
            if wrong:
                return wrong
        return None

    return asyncio.run(search())


def test_resuming_clients_get_everything_once_and_in_order_whatever_fails() -> None:
    assert first_failure(SEEDS, Faults()) is None


def test_what_a_short_log_has_lost_is_said_to_who_resumes_and_nothing_comes_twice() -> None:
    assert first_failure(SEEDS // 2, Faults(log_length=6)) is None


def test_resuming_was_put_to_the_test_in_these_worlds() -> None:
    """The model would prove nothing if nothing happened in it."""

    async def count() -> tuple[int, int, int]:
        phones = [(await resume_model.run(seed, Faults()))[1] for seed in range(120)]
        return (
            sum(phone.recovered for phone in phones),
            sum(phone.resyncs for phone in phones),
            sum(not phone.resyncs and phone.recovered > 1 for phone in phones),
        )

    recovered, resyncs, strict = asyncio.run(count())
    assert recovered > 100
    assert resyncs > 20
    assert strict > 5, "clients that resumed and never had to drop what they know"


# Mistakes that the model must find


def _without_settling(patch: pytest.MonkeyPatch) -> None:
    """A client is seated while things are published again that the replica drops."""
    patch.setattr(Stream, "is_settled", True)


def _without_label(patch: pytest.MonkeyPatch) -> None:
    """What clients are given after a lost tail, before it is published again, counts as a cursor."""
    patch.setattr(Stream, "label", property(lambda stream: stream.epoch))


def _without_holding(patch: pytest.MonkeyPatch) -> None:
    """Live messages go out before the rest of the replay."""
    patch.setattr(resume_model.Session, "hold", lambda session: None)


def _without_reaching(patch: pytest.MonkeyPatch) -> None:
    """A client is seated on a replica that has not come as far as it has."""
    patch.setattr(Track, "is_reached", True)
    patch.setattr(Track, "check_line", lambda track: None)


def _without_a_fixed_seam(patch: pytest.MonkeyPatch) -> None:
    """The last round reads up to wherever the stream has come by then."""
    original = Replay._catch_up

    async def catch_up(replay: Replay, track: Track, top: Position) -> None:
        await asyncio.sleep(0)
        await original(replay, track, Position(track.stream.epoch, track.stream.seq))

    patch.setattr(Replay, "_catch_up", catch_up)


def _without_judging(patch: pytest.MonkeyPatch) -> None:
    """Every cursor is good."""
    patch.setattr(gateway.replay, "judge", lambda position, meta, first_seq: None)
    patch.setattr(gateway.replay, "_is_within", lambda position, meta: True)


def _without_line_check(patch: pytest.MonkeyPatch) -> None:
    """An epoch that begins between two pages is overlooked."""
    patch.setattr(gateway.replay, "_is_within", lambda position, meta: True)


def _with_the_replicas_place(patch: pytest.MonkeyPatch) -> None:
    """A client is seated without its replay."""

    async def catch_up(replay: Replay, track: Track, top: Position) -> None: ...

    patch.setattr(Replay, "_catch_up", catch_up)


@pytest.mark.parametrize(
    ("mistake", "found_as"),
    [
        (_without_settling, ("missing",)),
        (_without_label, ("duplicate", "missing")),
        (_without_holding, ("disorder", "duplicate")),
        (_without_reaching, ("duplicate", "missing")),
        (_without_a_fixed_seam, ("duplicate",)),
        (_without_judging, ("duplicate", "missing", "never ends")),
        (_without_line_check, ("duplicate", "missing")),
        (_with_the_replicas_place, ("missing",)),
    ],
    ids=lambda value: value.__name__[1:] if callable(value) else "",
)
def test_the_model_finds_a_mistake(
    mistake: Callable[[pytest.MonkeyPatch], None], found_as: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    mistake(monkeypatch)
    wrong = first_failure(SEEDS_TO_FIND_A_MISTAKE, Faults())
    assert wrong is not None
    assert any(kind in wrong for kind in found_as), wrong
