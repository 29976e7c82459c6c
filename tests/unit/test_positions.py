from collections.abc import Mapping
from dataclasses import replace

import pytest

from relay import positions
from relay.positions import (
    Commit,
    Ends,
    Known,
    Start,
    Witness,
    choose_start,
    commit_metadata,
    generations_of,
    is_another_topic,
    is_lost,
    parse_commit,
    parse_witness,
    rebuild_from_ms,
    witness_text,
    witnesses_of,
)
from relay.routes import Partition, parse_partition_name, partition_name

P = Partition("risk-events", 2)
NAME = "risk-events/2"


def known(
    next_offsets: Mapping[str, Mapping[str, int]] | None = None,
    *,
    commit: Commit | None = None,
    first_end: int | None = None,
    rebuild: int | None = None,
) -> Known:
    lives = next_offsets or {"g": {}, "u0": {}}
    return Known(generation_of(lives, commit), Ends(100, 900), lives, commit, first_end, rebuild)


def generation_of(lives: Mapping[str, Mapping[str, int]], commit: Commit | None) -> int:
    return generations_of([P], lives.values(), {P: commit})[P]


def start_of(facts: Known) -> Start:
    return choose_start(P, facts, "latest")


def test_reading_starts_at_the_lowest_next_of_all_buckets() -> None:
    facts = known({"g": {NAME: 500}, "u0": {NAME: 480}}, commit=Commit(470, 1, 1000))
    assert start_of(facts) == Start(480, 1, ())


def test_what_is_committed_where_nothing_was_is_the_first_start_and_not_what_redis_has() -> None:
    # A relay may have died before its first commit. Redis may lose all that it published.
    assert start_of(known({"g": {NAME: 750}, "u0": {NAME: 740}}, first_end=700)) == Start(740, 1, (), commit=700)


def test_next_wins_over_a_commit() -> None:
    facts = known({"g": {NAME: 500}, "u0": {NAME: 500}}, commit=Commit(490, 1, 1000))
    assert start_of(facts) == Start(500, 1, ())


def test_other_partitions_say_nothing_of_this_one() -> None:
    facts = known({"g": {"risk-events/1": 1, "alert-events/2": 2}, "u0": {}}, first_end=700)
    assert start_of(facts) == Start(700, 1, ("g", "u0"), commit=700)


def test_the_very_first_start_begins_at_the_recorded_end() -> None:
    assert start_of(known(first_end=700)) == Start(700, 1, ("g", "u0"), commit=700)


def test_the_very_first_start_begins_at_the_beginning_when_told_so() -> None:
    assert choose_start(P, known(first_end=700), "earliest") == Start(100, 1, ("g", "u0"), commit=100)


def test_a_partition_that_appeared_later_is_read_from_its_beginning() -> None:
    assert start_of(known(first_end=None)) == Start(100, 1, ("g", "u0"), commit=100)


def test_a_bucket_lost_whole_is_rebuilt_from_before_the_last_commit() -> None:
    facts = known({"g": {NAME: 500}, "u0": {}}, commit=Commit(490, 1, 1000), first_end=0, rebuild=200)
    assert start_of(facts) == Start(200, 1, ("u0",))


def test_a_rebuild_never_begins_above_the_commit() -> None:
    facts = known(commit=Commit(490, 1, 1000), rebuild=600)
    assert start_of(facts).offset == 490


def test_a_rebuild_without_an_offset_for_its_time_begins_at_the_beginning() -> None:
    assert start_of(known(commit=Commit(490, 1, 1000), rebuild=None)).offset == 100


def test_nothing_read_yet_means_nothing_to_rebuild() -> None:
    assert start_of(known(commit=Commit(490, 1, None), first_end=700)) == Start(490, 1, ("g", "u0"))


def test_a_lost_bucket_is_told_where_reading_really_begins() -> None:
    facts = known({"g": {NAME: 150}, "u0": {}}, commit=Commit(490, 1, 1000), rebuild=200)
    assert start_of(facts) == Start(150, 1, ("u0",))


def test_what_the_topic_has_forgotten_is_passed_over_and_counted() -> None:
    facts = known({"g": {NAME: 60}, "u0": {NAME: 95}}, commit=Commit(60, 1, 1000))
    assert start_of(facts) == Start(100, 1, (), forgotten=40)
    assert start_of(known({"g": {NAME: 100}, "u0": {NAME: 120}}, commit=Commit(100, 1, 1000))).forgotten == 0


def test_standing_at_the_end_is_nothing_special() -> None:
    facts = known({"g": {NAME: 900}, "u0": {NAME: 900}}, commit=Commit(900, 1, 1000))
    assert start_of(facts) == Start(900, 1, ())


def test_a_position_past_the_end_begins_a_new_generation() -> None:
    facts = known({"g": {NAME: 901}, "u0": {NAME: 905}}, commit=Commit(901, 1, 1000), first_end=800)
    assert start_of(facts) == Start(100, 2, ("g", "u0"), commit=100, is_anew=True)


def test_another_topic_under_the_same_name_begins_a_new_generation() -> None:
    facts = known({"g": {NAME: 500}, "u0": {NAME: 500}}, commit=Commit(500, 1, 1000))
    assert start_of(replace(facts, is_another=True)) == Start(100, 2, ("g", "u0"), commit=100, is_anew=True)


def test_one_bucket_past_the_end_is_proof_enough_that_the_topic_was_made_anew() -> None:
    """The others learn of what is not for them a moment later, and a relay may be killed before that: they
    would have reading start where this bucket takes everything for a duplicate."""
    facts = known({"g": {NAME: 100}, "u0": {NAME: 901}}, commit=Commit(100, 1, None))
    assert start_of(facts) == Start(100, 2, ("g", "u0"), commit=100, is_anew=True)
    assert start_of(known({"g": {NAME: 100}, "u0": {NAME: 900}}, commit=Commit(100, 1, None))) == Start(100, 1, ())


def test_a_topic_is_known_by_the_record_committed_last_and_by_the_one_remembered() -> None:
    remembered = {NAME: Witness(450, 900), "risk-events/1": Witness(1, 1)}
    assert witnesses_of(P, 1, Commit(500, 1, 1000), remembered) == (Witness(499, 1000), Witness(450, 900))
    assert witnesses_of(P, 1, None, remembered) == (Witness(450, 900),)
    assert witnesses_of(P, 1, Commit(500, 1, None), {}) == ()


def test_records_of_an_earlier_generation_say_nothing_of_this_one() -> None:
    assert witnesses_of(P, 2, Commit(500, 1, 1000), {NAME: Witness(450, 900)}) == ()
    assert witnesses_of(P, 2, None, {"risk-events~2/2": Witness(3, 5)}) == (Witness(3, 5),)


def test_another_record_where_one_was_read_proves_another_topic() -> None:
    witnesses = [Witness(499, 1000), Witness(450, 900)]
    assert not is_another_topic(P, witnesses, {(P, 499): 1000, (P, 450): 900})
    assert is_another_topic(P, witnesses, {(P, 499): 1000, (P, 450): 901})
    assert is_another_topic(P, witnesses, {(P, 499): 2000})


def test_a_record_that_is_gone_proves_nothing() -> None:
    assert not is_another_topic(P, [Witness(499, 1000)], {})
    assert not is_another_topic(P, [Witness(499, 1000)], {(Partition("risk-events", 1), 499): 5})
    assert not is_another_topic(P, [], {(P, 499): 5})


def test_a_witness_survives_redis() -> None:
    assert parse_witness(witness_text(Witness(499, -1))) == Witness(499, -1)


def test_a_generation_that_began_goes_on() -> None:
    nexts = {"g": {NAME: 901, "risk-events~2/2": 120}, "u0": {NAME: 905, "risk-events~2/2": 110}}
    assert start_of(known(nexts, commit=Commit(901, 1, 1000))) == Start(110, 2, (), commit=100)
    assert start_of(known(nexts, commit=Commit(105, 2, 1000))) == Start(110, 2, ())


def test_a_lost_bucket_of_a_later_generation_ignores_the_first_start() -> None:
    nexts: dict[str, dict[str, int]] = {"g": {"risk-events~2/2": 500}, "u0": {}}
    assert start_of(known(nexts, first_end=800)) == Start(100, 2, ("u0",), commit=100)


def test_the_generation_is_the_highest_anybody_knows() -> None:
    assert generation_of({}, None) == 1
    assert generation_of({"g": {}, "u0": {"risk-events~3/2": 1, "risk-events~9/1": 1}}, Commit(0, 2, None)) == 3
    assert generation_of({"g": {}}, Commit(0, 2, None)) == 2
    assert generation_of({"g": {NAME: 5}}, Commit(0, 2, None)) == 2


def test_other_partitions_generations_are_not_asked_for() -> None:
    assert generations_of([P], [{"risk-events~9/1": 1}], {}) == {P: 1}


def test_each_name_is_parsed_once_however_many_buckets_and_partitions_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parsed = []
    monkeypatch.setattr(
        positions, "parse_partition_name", lambda name: parsed.append(name) or parse_partition_name(name)
    )
    partitions = [Partition("risk-events", number) for number in range(256)]
    life = {partition_name(partition): 1 for partition in partitions}
    assert set(generations_of(partitions, [life] * 64, {}).values()) == {1}
    assert len(parsed) == 256


def test_a_partition_is_lost_when_some_bucket_has_no_next_of_its_generation() -> None:
    assert not is_lost(P, 1, {"g": {NAME: 1}, "u0": {NAME: 1}})
    assert is_lost(P, 1, {"g": {NAME: 1}, "u0": {}})
    assert is_lost(P, 2, {"g": {NAME: 1}, "u0": {NAME: 1}})


@pytest.mark.parametrize("commit", [Commit(7, 1, 1_700_000_000_000), Commit(7, 3, None), Commit(0, 1, -1)])
def test_a_commit_survives_its_metadata(commit: Commit) -> None:
    assert parse_commit(commit.offset, commit_metadata(commit.generation, commit.timestamp_ms)) == commit


@pytest.mark.parametrize("metadata", ["", "x", "1:x", ":5", "a:b:c"])
def test_a_commit_with_foreign_metadata_counts_without_a_record(metadata: str) -> None:
    assert parse_commit(7, metadata) == Commit(7, 1, None)


def test_minus_one_is_no_commit() -> None:
    assert parse_commit(-1, "") is None


def test_a_rebuild_reaches_back_from_the_last_record_read() -> None:
    assert rebuild_from_ms(Commit(7, 1, 1_000_000), 300) == 700_000
    assert rebuild_from_ms(Commit(7, 1, 1_000), 300) == 0
    assert rebuild_from_ms(Commit(7, 1, None), 300) is None
    assert rebuild_from_ms(None, 300) is None
