"""Bytes that go out."""

import json

import pytest
from scripted import server_frames

from gateway.close_codes import CloseCode
from gateway.frames import PING, Variant, close_frame, frame_message, text_frame
from shared.message import Message


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 70_000])
def test_a_text_frame_has_the_shortest_length_that_fits(size: int) -> None:
    frame = text_frame(b"x" * size)
    assert server_frames(frame) == [(1, b"x" * size)]
    assert len(frame) - size == (2 if size < 126 else 4 if size < 65_536 else 10)


def test_a_plain_frame_is_exactly_type_and_data_and_data_is_untouched() -> None:
    data = '{ "user_id":"u",  "note":"naïve \\u00e9 😀" }'.encode()
    ((opcode, payload),) = server_frames(
        frame_message(
            Variant.PLAIN, Message(b"e", 1, b"risk-events/0", 7, 0, b"risk_alert", data), is_global=False, label=b"e"
        )
    )
    assert opcode == 1
    assert payload == b'{"type":"risk_alert","data":' + data + b"}"
    assert list(json.loads(payload)) == ["type", "data"]


def test_a_ping_is_an_empty_ping_frame() -> None:
    assert server_frames(PING) == [(9, b"")]


def test_a_close_frame_carries_the_code_and_its_reason() -> None:
    assert server_frames(close_frame(CloseCode.GAP)) == [(8, b"\x0f\xa3gap")]
    assert server_frames(close_frame(CloseCode.UNAVAILABLE, "unavailable retry_after_ms=1200")) == [
        (8, b"\x0f\xa4unavailable retry_after_ms=1200")
    ]


@pytest.mark.parametrize("character", ["x", "é", "€", "😀"])
def test_a_long_reason_is_cut_to_what_a_control_frame_holds_between_characters(character: str) -> None:
    for lead in range(4):
        ((_, payload),) = server_frames(close_frame(CloseCode.BAD_REQUEST, "x" * lead + character * 200))
        assert 120 <= len(payload) <= 125
        assert payload[2:].decode().endswith(character)
