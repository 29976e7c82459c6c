"""How long to wait before trying again."""

from shared.backoff import Backoff


def test_the_time_grows_to_its_ceiling_and_stays_there() -> None:
    ceilings = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
    for _ in range(200):
        backoff = Backoff()
        for ceiling in ceilings:
            assert ceiling / 4 - 0.01 <= backoff.next_seconds() <= ceiling


def test_times_are_spread() -> None:
    assert len({Backoff(5, 5).next_seconds() for _ in range(100)}) > 20


def test_it_begins_anew_after_a_success() -> None:
    backoff = Backoff(0.1, 60)
    for _ in range(10):
        backoff.next_seconds()
    assert backoff.next_seconds() > 1
    backoff.reset()
    assert backoff.next_seconds() <= 0.1


def test_it_never_is_a_busy_loop() -> None:
    assert min(Backoff().next_seconds() for _ in range(1_000)) >= 0.02
