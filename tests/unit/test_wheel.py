"""One clock for every connection."""

import pytest

from gateway.wheel import RING_SECONDS, Wheel


class Timer:
    def __init__(self, wheel: Wheel) -> None:
        self.place = -1
        self.wheel = wheel
        self.told_at: list[int] = []
        self.again_in: int | None = None
        self.cancels: list[Timer] = []

    def due(self) -> None:
        self.told_at.append(self.wheel.second)
        for other in self.cancels:
            self.wheel.cancel(other)
        if self.again_in is not None:
            self.wheel.set(self, self.again_in)


def turn(wheel: Wheel, seconds: int) -> None:
    for _ in range(seconds):
        wheel.tick()


@pytest.mark.parametrize("started_after", [0, 1, 62, 63, 64, 200])
@pytest.mark.parametrize("seconds", [1, 2, 30, 62])
def test_a_time_comes_once_never_early_and_at_most_a_second_late(started_after: int, seconds: int) -> None:
    wheel = Wheel()
    turn(wheel, started_after)
    timer = Timer(wheel)
    wheel.set(timer, seconds)
    turn(wheel, 3 * RING_SECONDS)
    # Set anywhere within a second: one tick more than `seconds` is at least `seconds`.
    assert timer.told_at == [started_after + seconds + 1]
    assert timer.place == -1


def test_a_new_time_replaces_the_one_before() -> None:
    wheel = Wheel()
    timer = Timer(wheel)
    wheel.set(timer, 3)
    turn(wheel, 2)
    wheel.set(timer, 10)
    turn(wheel, 100)
    assert timer.told_at == [13]


def test_a_cancelled_time_never_comes() -> None:
    wheel = Wheel()
    timer = Timer(wheel)
    wheel.set(timer, 3)
    wheel.cancel(timer)
    wheel.cancel(timer)
    turn(wheel, 2 * RING_SECONDS)
    assert timer.told_at == []


@pytest.mark.parametrize("again_in", [1, 25, 62])
def test_a_time_may_be_set_again_when_it_comes(again_in: int) -> None:
    wheel = Wheel()
    timer = Timer(wheel)
    timer.again_in = again_in
    wheel.set(timer, again_in)
    turn(wheel, 5 * (again_in + 1))
    assert timer.told_at == [(again_in + 1) * times for times in range(1, 6)]


def test_whoever_is_told_may_cancel_the_others_of_the_same_second() -> None:
    wheel = Wheel()
    timers = [Timer(wheel) for _ in range(10)]
    for timer in timers:
        timer.cancels = [other for other in timers if other is not timer]
        wheel.set(timer, 5)
    turn(wheel, 2 * RING_SECONDS)
    assert sum(len(timer.told_at) for timer in timers) == 1


@pytest.mark.parametrize("seconds", [0, -1, RING_SECONDS - 1, 1_000])
def test_times_that_the_ring_cannot_hold_are_refused(seconds: int) -> None:
    with pytest.raises(AssertionError):
        Wheel().set(Timer(Wheel()), seconds)
