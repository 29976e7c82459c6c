from dataclasses import dataclass

import pytest

from relay.batch import DeadLetter
from relay.decode import Reason
from relay.letters import Kind, Letter, bare_headers, parse_letter, whole_headers
from relay.routes import Partition


@dataclass(frozen=True)
class R:
    """A record."""

    offset: int
    value: bytes | None
    key: bytes | None = b"key"
    timestamp: int = 1000
    headers: tuple[tuple[str, bytes], ...] = (("trace", b"1"),)


def letter(value: bytes = b"nope", *, offset: int = 7, headers: tuple[tuple[str, bytes], ...] = ()) -> DeadLetter:
    return DeadLetter(Partition("risk-events", 2), R(offset, value, headers=headers), Reason.NOT_JSON)


ORIGIN = [
    ("dlq-topic", b"risk-events"),
    ("dlq-partition", b"2"),
    ("dlq-offset", b"7"),
    ("dlq-timestamp", b"1000"),
    ("dlq-reason", b"not_json"),
]


def test_a_letter_says_where_it_came_from_beside_its_own_headers() -> None:
    assert whole_headers(letter(headers=(("trace", b"1"),))) == [("trace", b"1"), *ORIGIN]


def test_a_letter_that_was_one_before_says_only_where_it_came_from_last() -> None:
    assert whole_headers(letter(headers=(("dlq-topic", b"old"), ("a", b"")))) == [("a", b""), *ORIGIN]


def test_a_bare_letter_says_how_large_its_value_was() -> None:
    assert bare_headers(letter(headers=(("trace", b"1"),))) == [*ORIGIN, ("dlq-value-bytes", b"4")]


def test_a_letter_is_read_back_as_the_record_that_it_was() -> None:
    written = letter(headers=(("trace", b"1"), ("trace", b"2")))
    read = parse_letter(R(40, b"nope", headers=tuple(whole_headers(written))))
    source = Partition("risk-events", 2)
    own = [("trace", b"1"), ("trace", b"2")]
    assert read == Letter(Kind("risk-events", "not_json"), source, 7, b"key", b"nope", own, None)


def test_a_bare_letter_is_known_from_an_empty_one() -> None:
    bare = parse_letter(R(40, b"", key=None, headers=tuple(bare_headers(letter()))))
    empty = parse_letter(R(40, b"", headers=tuple(whole_headers(letter(b"")))))
    assert bare is not None
    assert bare.value_bytes == 4
    assert empty is not None
    assert empty.value_bytes is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dlq-topic", b"elsewhere"),
        ("dlq-topic", b"\xff"),
        ("dlq-partition", b"x"),
        ("dlq-partition", b"-1"),
        ("dlq-offset", b""),
        ("dlq-reason", b"a/b=1,"),
        ("dlq-value-bytes", b"many"),
    ],
)
def test_what_no_relay_wrote_is_no_letter(name: str, value: bytes) -> None:
    assert parse_letter(R(40, b"", headers=tuple({**dict(ORIGIN), name: value}.items()))) is None


def test_a_record_without_our_headers_is_no_letter() -> None:
    assert parse_letter(R(40, b"")) is None
