"""What clients of notify.v1 say."""

import pytest

from gateway.control import Ack, Auth, BadControl, Filter, Ping, cursor_of, parse_control, types_of


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"control":"ping"}', Ping()),
        (' { "more": [1], "control" : "ping" } ', Ping()),
        ('{"control":"ack","cursor":"a.1.b.2"}', Ack("a.1.b.2")),
        ('{"control":"auth","token":"x.y.z"}', Auth("x.y.z")),
        ('{"control":"filter","types":["risk_alert"]}', Filter(["risk_alert"])),
        ('{"control":"filter","types":[]}', Filter([])),
    ],
)
def test_a_control_message_is_read(text: str, message: object) -> None:
    assert parse_control(text) == message


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "bad_json"),
        ("hello", "bad_json"),
        ("{", "bad_json"),
        ("[" * 100_000, "bad_control"),
        ("[]", "bad_control"),
        ("null", "bad_control"),
        ("{}", "bad_control"),
        ('{"control":"welcome"}', "bad_control"),
        ('{"control":7}', "bad_control"),
        ('{"control":"ack"}', "bad_control"),
        ('{"control":"ack","cursor":5}', "bad_control"),
        ('{"control":"filter","types":"risk_alert"}', "bad_control"),
        ('{"control":"filter","types":[1]}', "bad_control"),
        ('{"control":"auth","token":null}', "bad_control"),
    ],
)
def test_anything_else_is_refused_with_a_sentence_that_does_not_repeat_it(text: str, code: str) -> None:
    with pytest.raises(BadControl) as refused:
        parse_control(text)
    assert refused.value.code == code
    assert str(refused.value).endswith(".")
    assert len(str(refused.value)) < 200


def test_a_token_is_never_repeated() -> None:
    with pytest.raises(BadControl) as refused:
        parse_control('{"control":"auth","token":{"secret":"hunter2"}}')
    assert "hunter2" not in str(refused.value)


def test_what_is_in_them_is_checked() -> None:
    assert cursor_of(Ack("a.1.b.2")).user.seq == 2
    with pytest.raises(BadControl, match="cursor"):
        cursor_of(Ack("nonsense"))
    assert types_of(Filter(["risk_alert", "order_executed"])) == {b"risk_alert", b"order_executed"}
    assert types_of(Filter([])) is None
    with pytest.raises(BadControl, match="unknown type"):
        types_of(Filter(["risk_alert", "gossip"]))
