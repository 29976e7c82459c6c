import logging

import pytest

from relay import log_filter
from relay.log_filter import SayItOnce


def record(name: str, message: object, *args: object) -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, "file.py", 1, message, args, None)


def test_a_library_says_the_same_thing_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(log_filter.time, "monotonic", lambda: now)
    once = SayItOnce("aiokafka")
    assert once.filter(record("aiokafka.client", "no connection to %s", "a"))
    assert not once.filter(record("aiokafka.client", "no connection to %s", "b"))
    assert once.filter(record("aiokafka.client", "something else"))
    now += 10
    again = record("aiokafka.conn", "no connection to %s", "a")
    assert once.filter(again)
    assert vars(again)["suppressed"] == 1


def test_other_loggers_say_what_they_like() -> None:
    once = SayItOnce("aiokafka")
    for name in ("relay.consumer", "aiokafkaesque", "root"):
        assert once.filter(record(name, "the same"))
        assert once.filter(record(name, "the same"))


def test_what_is_no_text_passes() -> None:
    once = SayItOnce("aiokafka")
    assert once.filter(record("aiokafka", {"a": 1}))
    assert once.filter(record("aiokafka", {"a": 1}))
