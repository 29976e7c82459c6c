"""What Redis remembers, read into streams. The links' own tests are test_subscriber.py's."""

import asyncio
from typing import Any

import pytest
from clients import REDIS, Office

from gateway.close_codes import CloseCode
from gateway.frames import Variant
from gateway.history import History, parse_meta, parse_page, read_meta
from gateway.hub import Hub
from gateway.stream import NO_EPOCH, Meta
from shared.errors import RedisUnavailable
from shared.keys import GLOBAL, Keys
from shared.message import encode_body
from shared.settings import RedisSettings


@pytest.mark.parametrize(
    ("reply", "meta"),
    [
        ([None, None, None], Meta(NO_EPOCH, 0)),
        ([b"a", b"7", None], Meta(b"a", 7)),
        ([b"a", b"7", b""], Meta(b"a", 7)),
        ([b"c", b"9", b"a:3 b:7"], Meta(b"c", 9, {b"a": 3, b"b": 7})),
        ([b"a", None, None], Meta()),
        ([None, b"7", None], Meta()),
    ],
)
def test_a_streams_meta_is_read(reply: list[bytes | None], meta: Meta) -> None:
    assert parse_meta(reply) == meta


def test_the_meta_of_a_stream_is_asked_for_by_its_fields() -> None:
    assert read_meta(Keys(), GLOBAL) == ("HMGET", "notify:{g}:meta:global", b"epoch", b"seq", b"fork")


def entry(seq: int, epoch: bytes = b"a", data: bytes | None = None) -> list[Any]:
    body = encode_body("risk-events/0", seq, 0, "risk_alert", b"%d" % seq if data is None else data)
    payload = b"%s %d %s" % (epoch, seq, body)
    return [b"%d-0" % seq, [b"m", payload]]


def test_a_page_is_read_and_entries_that_are_not_ours_are_left_out() -> None:
    page = parse_page([entry(1), [b"2-0", [b"m", b"what is this"]], entry(3)])
    assert [(message.seq, message.data) for message in page] == [(1, b"1"), (3, b"3")]
    assert parse_page([]) == []


class ScriptedLink:
    """Answers the reads of a history from a log; counts them."""

    def __init__(self, meta: list[bytes | None], log: list[Any]) -> None:
        self.meta, self.log = meta, log
        self.starts: list[int] = []
        self.role: list[Any] = [b"master", 0, []]
        self.address = "here"

    is_lost = is_displaced = False

    def close(self) -> None:
        self.is_lost = True

    async def transaction(self, commands: Any, *, timeout_seconds: float) -> list[Any]:
        (_, xrange, role) = commands
        assert role == ("ROLE",)
        _, _, start, _, _, count = xrange
        after = int(start.removeprefix("("))
        self.starts.append(after)
        page = [entry for entry in self.log if int(entry[0].split(b"-")[0]) > after][:count]
        fields = dict(zip((b"epoch", b"seq", b"fork"), self.meta, strict=True)) | {b"o:risk-events/0": self.meta[1]}
        return [{name: value for name, value in fields.items() if value is not None}, page, self.role]


class Read:
    """A history and one stream, joined at (a, 4)."""

    def __init__(self, meta: list[bytes | None], log: list[Any]) -> None:
        self.hub = Hub(Keys())
        self.history = History(RedisSettings(_env_file=None), self.hub, "unit")
        (self.audience,) = self.hub.take_wanted(10)
        self.hub.joined(self.audience, Meta(b"a", 4), {b"risk-events/0": 5})
        self.hub.suspect(self.audience)
        self.link = ScriptedLink(meta, log)

    async def run(self) -> None:
        """Read until nothing is asked for, with a bound."""
        for _ in range(20):
            if not self.history._requested:
                return
            await self.history._read(self.link, list(self.history._requested.items()))  # type: ignore[arg-type]
        raise AssertionError("reads for ever")


async def test_what_is_missing_is_read_from_where_the_stream_stands() -> None:
    read = Read([b"a", b"6", None], [entry(seq) for seq in range(1, 7)])
    await read.run()
    assert read.link.starts == [4]
    assert (read.audience.stream.epoch, read.audience.stream.seq) == (b"a", 6)
    assert read.history.gaps == {"filled": 1}


async def test_a_long_log_is_read_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.history.PAGE_MESSAGES", 10)
    read = Read([b"a", b"34", None], [entry(seq) for seq in range(1, 35)])
    await read.run()
    assert read.link.starts == [4, 14, 24]
    assert read.history.gaps == {"filled": 1}


async def test_after_a_fork_the_log_is_read_again_from_there() -> None:
    log = [entry(1), entry(2), entry(3, b"b"), entry(4, b"b"), entry(5, b"b")]
    read = Read([b"b", b"5", b"a:2"], log)
    await read.run()
    assert read.link.starts == [4, 2]
    assert (read.audience.stream.epoch, read.audience.stream.seq) == (b"b", 5)


async def test_a_hole_is_counted_once_and_reading_ends() -> None:
    read = Read([b"a", b"9", None], [entry(8), entry(9)])
    await read.run()
    assert read.link.starts == [4]
    assert read.history.gaps == {"unfillable": 1}


async def test_a_hole_that_closes_one_that_is_slow_does_not_end_the_history() -> None:
    """What that one is owed is more than it takes, which closes it while it is being closed."""
    big = b'"%s"' % (b"x" * 60_000)
    office = Office(slow_client_bytes=65_536)
    slow = office.connect(variant=Variant.PLAIN)
    slow.protocol.pause_writing()
    office.publish(data=big)
    await asyncio.sleep(0)
    history = History(REDIS, office.hub, "unit")
    everyone, ann = office.hub.audiences
    for audience in (ann, everyone):
        office.hub.suspect(audience)
    # As after one round trip: what the first gave is owed, and not written yet.
    history._took(ann, 0, Meta(b"a", 1), [entry(1, data=big)])
    history._took(everyone, 1, Meta(b"a", 9), [entry(8), entry(9)])
    assert history.gaps == {"filled": 1, "unfillable": 1}
    assert not history._requested
    assert office.connections.closes == {CloseCode.SLOW_CONSUMER: 1}
    await asyncio.sleep(0)


async def test_nothing_missing_is_read_once() -> None:
    read = Read([b"a", b"4", None], [entry(4)])
    await read.run()
    assert read.link.starts == [4]
    assert read.audience.stream.is_live


async def test_a_stream_is_asked_for_once_however_often_it_is_requested() -> None:
    read = Read([b"a", b"4", None], [])
    for _ in range(100):
        read.history.request(read.audience)
    assert len(read.history._requested) == 1


async def test_what_a_demoted_server_has_completes_nothing() -> None:
    """It may lack what its successor has, and nobody would look again."""
    read = Read([b"a", b"4", None], [entry(4)])
    read.link.role = [b"slave", b"h", 1, b"connected", 1]
    with pytest.raises(RedisUnavailable, match="is a replica"):
        await read.run()
    assert read.link.is_lost  # the next link is made to whoever is the primary then
    assert not read.audience.stream.is_live
    read.link.role = [b"master", 0, []]
    await read.run()
    assert read.audience.stream.is_live


async def test_it_waits_for_a_request_without_a_link_and_can_be_cancelled() -> None:
    history = History(RedisSettings(_env_file=None, redis_url="redis://127.0.0.1:1"), Hub(Keys()), "unit")
    task = asyncio.create_task(history.run())
    await asyncio.sleep(0.01)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
