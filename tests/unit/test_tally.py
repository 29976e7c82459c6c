from relay.letters import Kind
from relay.tally import Tally, looking

BIG = Kind("risk-events", "too_large")
BAD = Kind("alert-events", "not_json")


def test_progress_is_one_line() -> None:
    tally = Tally(total=400, read=100)
    tally.put_back[BAD] = 50
    assert tally.progress(2.0) == "read 100 of 400 (25 %), put back 50, 25 a second"


def test_looking_for_bookmarks_shows_its_progress_too() -> None:
    assert looking(30, 40) == "looking for what was put back already: read 30 of 40 (75 %)"
    assert looking(0, 0).endswith("read 0 of 0 (100 %)")


def test_nothing_is_no_division() -> None:
    assert Tally(total=0).progress(0.0) == "read 0 of 0 (100 %), put back 0, 0 a second"


def test_the_table_has_a_row_for_each_kind() -> None:
    tally = Tally(total=9)
    tally.put_back[BAD] = 5
    tally.stuck[BIG] = 2
    tally.left = 3
    assert tally.table(is_dry_run=False) == [
        "topic         reason     put back  cannot be",
        "alert-events  not_json          5          0",
        "risk-events   too_large         0          2",
        "together                        5          2",
        "3 of other kinds were passed over and stay for another run",
    ]
    assert "to put back" in tally.table(is_dry_run=True)[0]
    assert not tally.is_clean


def test_letters_that_are_none_are_not_hidden() -> None:
    tally = Tally(total=1, foreign=1)
    assert not tally.is_clean
    assert any(line.startswith("(not a relay's letter)") for line in tally.table(is_dry_run=False))


def test_nothing_to_do_says_so() -> None:
    assert Tally(total=0).table(is_dry_run=False) == ["nothing to put back"]
    assert Tally(total=0).is_clean
