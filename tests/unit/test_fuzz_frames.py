"""The frame layer and control messages given anything."""

import contextlib
import json

from fuzzing import cuts, frames, fuzzed, split
from hypothesis import example, given
from hypothesis import strategies as st
from scripted import PING, TEXT, client_frame, server_frames
from test_inbound import BOMB, MAX_MESSAGE_BYTES, in_pieces, read

from gateway.control import Ack, BadControl, Filter, cursor_of, parse_control, types_of
from gateway.inbound import MAX_FRAGMENTS, SLICE_BYTES, Inbound, Received

FRAMES_PER_SECOND = 40
LARGEST_FRAME = MAX_MESSAGE_BYTES + 14
MOST_FRAMES = SLICE_BYTES // 6 + 1  # the first may have begun before


class Bounded(Inbound):
    """The frame layer, which is looked at after each slice."""

    def __init__(self, takes_compressed: bool = False) -> None:
        super().__init__(
            max_message_bytes=MAX_MESSAGE_BYTES,
            frames_per_second=FRAMES_PER_SECOND,
            takes_compressed=takes_compressed,
        )

    def read_slice(self) -> Received:
        received = super().read_slice()
        protocol, fragments = self._protocol, self._fragments or []
        if received.offence is None and not received.closed:
            assert len(protocol.reader.buffer) <= LARGEST_FRAME
            assert not protocol.events
            assert not protocol.writes
        assert len(protocol.reader.buffer) <= LARGEST_FRAME + SLICE_BYTES
        assert received.frames <= MOST_FRAMES
        assert len(fragments) <= MAX_FRAGMENTS
        assert sum(map(len, fragments)) <= MAX_MESSAGE_BYTES
        assert len(self._compressed or b"") <= MAX_MESSAGE_BYTES
        assert all(len(message) <= MAX_MESSAGE_BYTES for message in received.messages)
        assert len(received.answer) <= MOST_FRAMES * 127
        return received


@fuzzed
@given(frames, cuts, st.booleans())
@example(client_frame(PING) * 300, [], False)
@example(client_frame(TEXT, b"x", fin=False) + client_frame(0, b"", fin=False) * 200_000, [0.5], False)
@example(client_frame(TEXT, BOMB[:2_000], fin=False, reserved=4) + client_frame(0, BOMB[2_000:]), [0.5], True)
def test_any_bytes_split_anywhere_mean_the_same_and_keep_the_bounds(
    data: bytes, where: list[float], takes_compressed: bool
) -> None:
    whole = read(Bounded(takes_compressed), data)
    pieces = in_pieces(Bounded(takes_compressed), split(data, where))
    by_bytes = in_pieces(Bounded(takes_compressed), [data[at : at + 1] for at in range(min(len(data), 3_000))])
    for other in (pieces, by_bytes) if len(data) <= 3_000 else (pieces,):
        assert (other.messages, other.closed, other.offence) == (whole.messages, whole.closed, whole.offence)
        if whole.offence is None:
            assert other.answer == whole.answer
            server_frames(whole.answer)
    assert whole.offence in (None, 1002, 1003, 1007, 1009, 4002)
    assert not (whole.closed and whole.offence)


@fuzzed
@given(frames, frames)
def test_nothing_is_heard_after_the_end(data: bytes, more: bytes) -> None:
    reader = Bounded()
    ended = read(reader, data)
    if ended.closed:
        assert read(reader, more, 1).messages == []


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_FIELD = st.sampled_from(["ack", "auth", "filter", "ping", "welcome", "", "risk_alert", "a.1.b.2", "\ud800", "٣.1.b.2"])
_CONTROL = st.dictionaries(
    st.sampled_from(["control", "cursor", "token", "types", "x"]), _FIELD | _JSON | st.lists(_FIELD, max_size=3)
).map(json.dumps)


@st.composite
def _nearly(draw: st.DrawFn) -> str:
    text = draw(_CONTROL)
    at = draw(st.integers(0, len(text)))
    return text[:at] + draw(st.text(max_size=3)) + text[at + draw(st.integers(0, 2)) :]


@fuzzed
@given(st.text() | _CONTROL | _nearly() | _JSON.map(json.dumps))
@example('{"control":"filter","types":["\\ud800"]}')
@example('{"control":"ack","cursor":"\\ud800"}')
@example('{"control":"ack","cursor":"' + "9" * 4_000 + '"}')
@example("[" * 4_096)
@example('{"control":' * 400)
@example('{"control":"ping","x":' + "[" * 2_000 + "]" * 2_000 + "}")
@example('{"control":"ping","x":' + "9" * 4_000 + "}")
def test_any_text_is_a_control_message_or_a_bad_one(text: str) -> None:
    with contextlib.suppress(BadControl):
        message = parse_control(text)
        if isinstance(message, Ack):
            cursor_of(message)
        elif isinstance(message, Filter):
            types_of(message)


def test_what_is_wrong_with_it_never_says_what_was_sent() -> None:
    for secret in ("hunter2", "\\ud800hunter2"):
        for text in (
            f'{{"control":"filter","types":["{secret}"]}}',
            f'{{"control":"ack","cursor":"{secret}"}}',
            f'{{"control":"{secret}"}}',
            secret,
        ):
            try:
                message = parse_control(text)
                _ = cursor_of(message) if isinstance(message, Ack) else types_of(message)  # type: ignore[arg-type]
            except BadControl as bad:
                assert "hunter2" not in str(bad)  # noqa: PT017
                assert "ud800" not in str(bad)  # noqa: PT017
                str(bad).encode()
