"""Logs: one line for each thing that matters."""

import json
import logging
import threading
import warnings
from collections.abc import Iterator

import pytest
import structlog

from relay.log_filter import SayItOnce
from shared.log_lines import LINES_A_SECOND, UserIds
from shared.logging import configure_logging, get_logger


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Logging belongs to the process: put it back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_as_json_a_line_is_one_object_with_time_level_event_and_service(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(level="INFO", format_="json", service="notification")
    get_logger("here").info("joined", group="relay", partitions=[1, 2])
    (line,) = lines(capsys)
    logged = json.loads(line)
    assert logged.pop("timestamp").endswith("Z")
    assert logged == {
        "event": "joined",
        "level": "info",
        "service": "notification",
        "group": "relay",
        "partitions": [1, 2],
    }


def test_for_people_a_line_is_text_without_colours_when_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(level="INFO", format_="console", service="notification")
    get_logger("here").warning("not subscribed", error="refused", in_seconds=0.2)
    (line,) = lines(capsys)
    assert "not subscribed" in line
    assert "error=refused" in line
    assert "service=notification" in line
    assert "\x1b" not in line


@pytest.mark.parametrize("format_", ["json", "console"])
def test_what_is_below_the_level_is_not_logged(format_: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(level="WARNING", format_=format_, service="notification")
    get_logger("here").info("quiet")
    get_logger("here").warning("loud")
    (line,) = lines(capsys)
    assert "loud" in line


def test_libraries_log_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(level="INFO", format_="json", service="notification")
    logging.getLogger("some.library").warning("it has %d legs", 4)
    logged = json.loads(lines(capsys)[0])
    assert (logged["event"], logged["level"], logged["service"]) == ("it has 4 legs", "warning", "notification")


def test_lines_of_every_thread_name_the_service(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(level="INFO", format_="json", service="notification")
    for log in (logging.getLogger("some.library"), get_logger("here")):
        thread = threading.Thread(target=log.warning, args=("of a thread",))
        thread.start()
        thread.join()
    assert [json.loads(line)["service"] for line in lines(capsys)] == ["notification"] * 2


@pytest.mark.parametrize(
    "library", ["websockets.server", "uvicorn.error", "uvicorn.access", "aiokafka.consumer", "asyncio"]
)
def test_chatty_libraries_are_quiet_even_for_debugging(library: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(level="DEBUG", format_="json", service="notification")
    logging.getLogger(library).debug("> TEXT 'secret'")
    logging.getLogger(library).info("GET /ws?user_id=ann")
    assert lines(capsys) == []
    logging.getLogger(library).error("broken")
    assert len(lines(capsys)) == 1


def test_an_exception_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(level="INFO", format_="json", service="notification")
    try:
        raise ValueError("wrong\nin two lines")
    except ValueError:
        get_logger("here").exception("it failed")
    (line,) = lines(capsys)
    assert "ValueError: wrong\nin two lines" in json.loads(line)["exception"]


def test_a_value_with_a_newline_cannot_make_a_line_of_its_own_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(level="INFO", format_="json", service="notification")
    get_logger("here").info("got", value='x\n{"event":"forged"}')
    assert len(lines(capsys)) == 1


def test_a_logger_made_before_logging_was_set_up_follows_it(capsys: pytest.CaptureFixture[str]) -> None:
    early = get_logger("module")
    configure_logging(level="INFO", format_="json", service="notification")
    early.info("later")
    assert json.loads(lines(capsys)[0])["service"] == "notification"


def test_setting_it_up_twice_logs_once(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        configure_logging(level="INFO", format_="json", service="notification")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logging.getLogger("some.library").warning("once")
    assert len(lines(capsys)) == 1


def test_a_flood_is_cut_and_counted_ours_and_libraries(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("shared.logging.time.monotonic", lambda: now)
    configure_logging(level="INFO", format_="json", service="notification")
    for _ in range(2):
        for number in range(1_000):
            get_logger("here").warning("dead_letter", offset=number)
            logging.getLogger("aiokafka").warning("no node %d", number)
        now += 1
    logged = [json.loads(line) for line in lines(capsys)]
    assert len(logged) == 4 * LINES_A_SECOND
    counted = [(line["event"], line["suppressed"]) for line in logged if "suppressed" in line]
    assert counted == [("dead_letter", 1_000 - LINES_A_SECOND), ("no node 0", 1_000 - LINES_A_SECOND)]


def test_what_a_filter_left_out_is_counted_though_the_limit_is_behind_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("shared.logging.time.monotonic", lambda: now)
    configure_logging(level="INFO", format_="json", service="notification", filters=[SayItOnce("aiokafka")])
    for _ in range(11):
        for number in range(100):
            logging.getLogger("aiokafka").warning("no node %d", number)
        now += 1
    logged = [json.loads(line) for line in lines(capsys)]
    assert [(line["event"], line.get("suppressed")) for line in logged] == [("no node 0", None), ("no node 0", 999)]


def test_what_operators_did_is_never_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(level="INFO", format_="json", service="notification")
    for number in range(5 * LINES_A_SECOND):
        get_logger("here").warning("an operator acted", number=number, audit=True)
    assert [json.loads(line)["number"] for line in lines(capsys)] == list(range(5 * LINES_A_SECOND))


@pytest.mark.parametrize(("user_ids", "said"), [("hash", "ba7816bf8f01"), ("plain", "abc"), ("none", "-")])
def test_users_are_named_as_configured(user_ids: UserIds, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(level="INFO", format_="json", service="notification", user_ids=user_ids)
    get_logger("here").warning("it", user="abc", key="notify:{u0}:log:abc")
    (line,) = lines(capsys)
    logged = json.loads(line)
    assert (logged["user"], logged["key"]) == (said, f"notify:{{u0}}:log:{said}")


@pytest.mark.parametrize(("user_ids", "said"), [("hash", "ba7816bf8f01"), ("plain", "abc"), ("none", "-")])
@pytest.mark.parametrize("format_", ["json", "console"])
def test_users_are_named_so_in_lines_of_libraries_and_in_tracebacks(
    format_: str, user_ids: UserIds, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(level="INFO", format_=format_, service="notification", user_ids=user_ids)
    key = "notify:{u0}:log:abc"
    logging.getLogger("some.library").warning("no %s", key)
    for say in (logging.getLogger("some.library").exception, get_logger("here").exception):
        try:
            raise ValueError(key)
        except ValueError:
            say("it failed")
    text = "\n".join(lines(capsys))
    assert "no notify:{u0}:log:" + said in text
    assert text.count("ValueError: notify:{u0}:log:" + said) == 2
    assert (key in text) is (user_ids == "plain")
