"""The numbered list of ends."""

import pytest

from gateway.close_codes import CloseCode


@pytest.mark.parametrize("code", [code for code in CloseCode if code >= 4000], ids=lambda code: code.name)
def test_our_codes_tell_by_their_number_whether_to_come_back(code: CloseCode) -> None:
    assert 4000 <= code <= 4999
    assert code.retry == (code < 4500)


@pytest.mark.parametrize("code", CloseCode, ids=lambda code: code.name)
def test_a_code_is_the_number_on_the_wire_and_its_reason_is_its_name(code: CloseCode) -> None:
    assert isinstance(code, int)
    assert CloseCode(code.value) is code
    if code is not CloseCode.NORMAL:
        assert code.reason == code.name.lower()
    # RFC 6455 section 7.4.1: these three must never be sent.
    assert code not in (1005, 1006, 1015)


def test_a_replica_that_goes_asks_its_clients_back() -> None:
    assert CloseCode.SERVICE_RESTART == 1012
    assert CloseCode.SERVICE_RESTART.retry
    assert not CloseCode.PROTOCOL_ERROR.retry
