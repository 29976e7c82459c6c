"""Who is connected, and what each is owed. Members are scripted; the loop is driven."""

import asyncio
import json
import random
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from scripted import ScriptedMember, SeatingHub

import gateway.group
import gateway.heartbeats
import gateway.hub
from gateway.audience import Audience
from gateway.close_codes import CloseCode
from gateway.frames import Variant
from gateway.group import FAN_OUT_BYTES, Wishes
from gateway.heartbeats import BEATS_A_STEP
from gateway.hub import LINGER_SECONDS, WRITES_A_TURN
from gateway.stream import MAX_HELD_MESSAGES, Filled, Meta
from shared.keys import GLOBAL, Keys
from shared.message import Message, encode_body

KEYS = Keys()


class Replica:
    """A hub whose requests are written down, and whose streams are subscribed when asked."""

    def __init__(self, **options: int) -> None:
        self.hub = SeatingHub(KEYS, **options)
        self.wanted_times = 0
        self.fetched: list[Audience] = []
        self.floods: list[bool] = []
        self.seqs: dict[str, int] = {}
        self.hub.on_wanted = self._wanted
        self.hub.on_fetch = self.fetched.append
        self.hub.on_flood = self.floods.append

    def _wanted(self) -> None:
        self.wanted_times += 1

    def subscribe(self) -> None:
        """What is wanted is subscribed, and stands where it stands."""
        for audience in self.hub.take_wanted(1_000):
            seq = self.seqs.get(audience.channel, 0)
            self.hub.joined(audience, Meta(b"a", seq) if seq else Meta(), {b"risk-events/0": seq + 1})

    def join(self, user_id: str = "ann", types: frozenset[bytes] | None = None) -> ScriptedMember:
        member = ScriptedMember(types, user_id)
        member.on_close = lambda: self.hub.leave(member)
        self.hub.join(member, user_id)
        self.subscribe()
        assert member.opened_times == 1
        return member

    def publish(self, data: bytes, user_id: str | None = None, type_: bytes = b"risk_alert") -> None:
        """The next message of a user's stream or of everyone's comes in."""
        name = GLOBAL if user_id is None else KEYS.user_stream(user_id)
        channel = KEYS.live(name)
        seq = self.seqs[channel] = self.seqs.get(channel, 0) + 1
        self.receive(channel, seq, data, type_)

    def receive(self, channel: str, seq: int, data: bytes, type_: bytes = b"risk_alert") -> None:
        body = encode_body("risk-events/0", seq, 0, type_.decode(), data)
        self.hub.receive(channel.encode(), b"a %d %s" % (seq, body))

    def audience(self, user_id: str | None = None) -> Audience:
        name = GLOBAL if user_id is None else KEYS.user_stream(user_id)
        return next(audience for audience in self.hub.audiences if audience.name == name)


def data_of(member: ScriptedMember) -> list[bytes]:
    """The data of the frames that a member got."""
    return [payload.partition(b'"data":')[2][:-1] for payload in member.payloads]


async def turn() -> None:
    """One turn of the loop: what was scheduled runs, what it schedules does not yet."""
    await asyncio.sleep(0)


async def idle(replica: Replica) -> None:
    """Turns until nothing is due, with a bound."""
    for _ in range(10_000):
        if not replica.hub._turn_due:
            return
        await turn()
    raise AssertionError("the fan-out never ends")


# Fan-out


async def test_what_comes_in_one_turn_goes_out_in_one_write_and_nothing_before() -> None:
    replica = Replica()
    members = [replica.join() for _ in range(3)]
    for number in range(5):
        replica.publish(b"%d" % number, "ann")
    assert all(member.writes == [] for member in members)
    await turn()
    for member in members:
        assert len(member.writes) == 1
        assert data_of(member) == [b"0", b"1", b"2", b"3", b"4"]


async def test_the_same_bytes_go_to_every_socket() -> None:
    replica = Replica()
    members = [replica.join(user) for user in ("ann", "bob", "cat")]
    replica.publish(b"1")
    await turn()
    assert len({id(member.writes[0]) for member in members}) == 1


async def test_a_message_is_compressed_once_for_all_who_take_it_so() -> None:
    replica = Replica(deflate_min_bytes=100)
    members = []
    others = frozenset((b"risk_alert",))
    for types, deflated in ((None, True), (None, True), (None, False), (None, False), (others, True), (others, False)):
        member = ScriptedMember(types, f"user {len(members)}", deflated=deflated)
        replica.hub.join(member, member.name)
        members.append(member)
    replica.subscribe()
    data = b'{"message":"%s"}' % (b"x" * 200)
    replica.publish(data)
    await turn()
    packed, also_packed, plain, also_plain, filtered, filtered_plain = (member.writes[0] for member in members)
    assert packed is also_packed is filtered
    assert plain is also_plain is filtered_plain
    assert len(packed) < 100 < len(plain)
    replica.publish(b'{"message":"short"}')
    await turn()
    assert members[0].writes[1] == members[2].writes[1]
    for member in members:
        assert data_of(member) == [data, b'{"message":"short"}']
    assert members[0].wishes is members[1].wishes, "one object for all who wish the same"


async def test_a_message_for_everyone_reaches_all_and_a_users_only_hers() -> None:
    replica = Replica()
    ann, phone, bob = replica.join("ann"), replica.join("ann"), replica.join("bob")
    replica.publish(b"1")
    replica.publish(b"2", "ann")
    await turn()
    assert sorted(data_of(ann)) == sorted(data_of(phone)) == [b"1", b"2"]
    assert data_of(bob) == [b"1"]


async def test_only_wanted_types_are_written() -> None:
    replica = Replica()
    wanted = frozenset((b"regime_change", b"market_alert"))
    everything, some, none = replica.join(), replica.join(types=wanted), replica.join(types=frozenset((b"risk_alert",)))
    for data, type_ in ((b"1", b"regime_change"), (b"2", b"order_executed"), (b"3", b"market_alert")):
        replica.publish(data, type_=type_)
    await idle(replica)
    assert data_of(everything) == [b"1", b"2", b"3"]
    assert data_of(some) == [b"1", b"3"]
    assert none.writes == []
    assert replica.hub.deliveries.counts == {b"regime_change": 2, b"order_executed": 1, b"market_alert": 2}


async def test_much_goes_out_in_several_writes_in_order() -> None:
    replica = Replica()
    member = replica.join()
    for number in range(10):
        replica.publish(b"%d" % number * 30_000, "ann")
    await idle(replica)
    assert [data[:1] for data in data_of(member)] == [b"%d" % number for number in range(10)]
    assert len(member.writes) > 2
    assert all(len(data) <= FAN_OUT_BYTES for data in member.writes)
    assert replica.hub._due_bytes == 0


async def test_one_message_larger_than_a_write_should_be_goes_out_alone() -> None:
    replica = Replica()
    member = replica.join()
    for size in (10, FAN_OUT_BYTES + 10, 10):
        replica.publish(b"x" * size, "ann")
    await idle(replica)
    assert [len(data) for data in data_of(member)] == [10, FAN_OUT_BYTES + 10, 10]
    assert replica.hub._due_bytes == 0


async def test_a_large_fan_out_lets_the_loop_do_other_things() -> None:
    replica = Replica()
    members = [replica.join(f"user-{number}") for number in range(2 * WRITES_A_TURN + 10)]
    replica.publish(b"1")
    done: list[int] = []
    while sum(done) < len(members):
        before = sum(len(member.writes) for member in members)
        await turn()
        done.append(sum(len(member.writes) for member in members) - before)
        assert len(done) < 10
    assert done == [WRITES_A_TURN, WRITES_A_TURN, 10]


async def test_a_large_fan_out_does_not_make_small_ones_wait_for_its_end() -> None:
    replica = Replica()
    crowd = [replica.join(f"user-{number}") for number in range(4 * WRITES_A_TURN)]
    ann = replica.join("ann")
    replica.publish(b"1")
    replica.publish(b"2", "ann")
    await turn()
    await turn()
    assert b"2" in data_of(ann)
    assert sum(len(member.writes) for member in crowd) < len(crowd)


async def test_messages_that_come_during_a_fan_out_follow_it_in_order() -> None:
    replica = Replica()
    members = [replica.join(f"user-{number}") for number in range(WRITES_A_TURN + 10)]
    replica.publish(b"1")
    await turn()
    replica.publish(b"2")
    replica.publish(b"3")
    await idle(replica)
    assert all(data_of(member) == [b"1", b"2", b"3"] for member in members)


# Joining


async def test_who_joins_gets_what_comes_afterwards_and_not_what_is_still_due() -> None:
    replica = Replica()
    first = replica.join()
    replica.publish(b"before")
    replica.publish(b"before too", "ann")
    second = replica.join()
    replica.publish(b"after")
    third = replica.join()
    await idle(replica)
    assert sorted(data_of(first)) == [b"after", b"before", b"before too"]
    assert data_of(second) == [b"after"]
    assert third.writes == []


async def test_who_joins_during_a_fan_out_gets_the_next_one() -> None:
    replica = Replica()
    members = [replica.join(f"user-{number}") for number in range(WRITES_A_TURN + 10)]
    replica.publish(b"1")
    await turn()  # half of it
    joiner = replica.join("late")
    replica.publish(b"2")
    second_joiner = replica.join("later")
    replica.publish(b"3")
    await idle(replica)
    assert data_of(joiner) == [b"2", b"3"]
    assert data_of(second_joiner) == [b"3"]
    assert all(data_of(member) == [b"1", b"2", b"3"] for member in members)


async def test_who_joins_gets_messages_in_order_when_much_is_due() -> None:
    replica = Replica()
    first = replica.join()
    for number in range(10):
        replica.publish(b"%d" % number * 30_000)
    joiner = replica.join()
    for number in range(10, 14):
        replica.publish(b"%d" % number * 15_000)
    await idle(replica)
    assert len(data_of(first)) == 14
    assert [data[:2] for data in data_of(joiner)] == [b"10", b"11", b"12", b"13"]


async def test_a_joiner_that_its_first_write_closes_is_gone_for_good() -> None:
    replica = Replica()
    replica.join()
    replica.publish(b"1")
    slow, other = replica.join("bob"), replica.join("eve")
    replica.publish(b"2")
    for member, victim in ((slow, slow), (other, slow)):
        member.write = lambda data, victim=victim: victim.close(CloseCode.SLOW_CONSUMER)
    await turn()
    (group,) = replica.audience().groups.values()
    assert slow not in group.everyone()
    assert replica.audience("bob").is_idle


async def test_a_joiner_does_not_make_writes_larger() -> None:
    replica = Replica()
    stayer = replica.join()
    replica.publish(b"first")
    joiner = replica.join("bob")
    sizes: list[int] = []
    stayer.write = lambda data: sizes.append(len(data))
    count = 3 * FAN_OUT_BYTES // 1_000
    for _ in range(count):
        replica.publish(b"x" * 1_000)
    while any(group.has_due for group in replica.audience().groups.values()):
        await turn()
    assert max(sizes) <= FAN_OUT_BYTES
    assert data_of(joiner) == [b"x" * 1_000] * count


async def test_what_joiners_get_is_counted() -> None:
    replica = Replica()
    replica.join()
    replica.publish(b"1", type_=b"market_alert")
    replica.join()
    replica.publish(b"2", type_=b"regime_change")
    await idle(replica)
    assert replica.hub.deliveries.counts == {b"market_alert": 1, b"regime_change": 2}


async def test_handshakes_wait_for_both_streams() -> None:
    replica = Replica()
    member = ScriptedMember()
    replica.hub.join(member, "ann")
    everyone, ann = replica.hub.take_wanted(10)
    assert everyone.name == GLOBAL
    replica.hub.joined(ann, Meta(), {})
    assert member.opened_times == 0
    replica.hub.joined(everyone, Meta(), {})
    assert member.opened_times == 1


async def test_a_handshake_waits_for_its_own_stream_when_that_of_everyone_is_there() -> None:
    replica = Replica()
    replica.join("ann")
    member = ScriptedMember()
    replica.hub.join(member, "bob")
    assert member.opened_times == 0
    assert replica.hub.waiting == [member]
    replica.subscribe()
    assert member.opened_times == 1
    assert replica.hub.waiting == []


async def test_handshakes_of_a_stream_that_is_subscribed_are_answered_at_once() -> None:
    replica = Replica()
    replica.join("ann")
    member = ScriptedMember()
    replica.hub.join(member, "ann")
    assert member.opened_times == 1


async def test_one_who_leaves_while_waiting_is_not_answered() -> None:
    replica = Replica()
    stays, leaves = ScriptedMember(), ScriptedMember()
    replica.hub.join(stays, "ann")
    replica.hub.join(leaves, "ann")
    replica.hub.leave(leaves)
    replica.subscribe()
    assert (stays.opened_times, leaves.opened_times) == (1, 0)


# Leaving


async def test_who_has_left_is_owed_nothing() -> None:
    replica = Replica()
    stays, leaves = replica.join(), replica.join()
    replica.publish(b"1")
    replica.hub.leave(leaves)
    replica.hub.leave(leaves)
    await idle(replica)
    assert data_of(stays) == [b"1"]
    assert leaves.writes == []
    assert leaves.audience is None


async def test_a_joiner_may_leave_before_its_first_message() -> None:
    replica = Replica()
    replica.join()
    replica.publish(b"1")
    joiner = replica.join()
    replica.publish(b"2")
    replica.hub.leave(joiner)
    await idle(replica)
    assert joiner.writes == []


async def test_the_last_may_leave_with_messages_due() -> None:
    replica = Replica()
    member = replica.join()
    replica.publish(b"1", "ann")
    replica.hub.leave(member)
    await idle(replica)
    assert replica.hub._due_bytes == 0
    again = replica.join()
    replica.publish(b"2", "ann")
    await idle(replica)
    assert data_of(again) == [b"2"]


async def test_members_that_leave_during_a_fan_out_do_not_disturb_it() -> None:
    replica = Replica()
    members = [replica.join(f"user-{number}") for number in range(50)]
    for number, member in enumerate(members):
        # Each write makes another one leave, as a slow client that is closed for all does.
        other = members[(number * 7 + 3) % 50]
        member.on_write = lambda other=other: replica.hub.leave(other)  # type: ignore[misc]
    replica.publish(b"1")
    replica.publish(b"2")
    await idle(replica)
    assert all(data_of(member) in ([], [b"1", b"2"]) for member in members)


async def test_one_that_never_joined_may_leave() -> None:
    Replica().hub.leave(ScriptedMember())


# Streams come and go


async def test_a_stream_is_wanted_once() -> None:
    replica = Replica()
    replica.hub.take_wanted(10)
    for _ in range(3):
        replica.hub.join(ScriptedMember(), "ann")
    assert replica.wanted_times == 1
    assert [audience.name.name for audience in replica.hub.take_wanted(10)] == ["ann"]
    assert replica.hub.take_wanted(10) == []


async def test_wanted_streams_are_given_a_batch_at_a_time_in_order() -> None:
    hub = SeatingHub(KEYS)
    for number in range(5):
        hub.join(ScriptedMember(), f"u{number}")
    names = [[audience.name.name for audience in hub.take_wanted(2)] for _ in range(4)]
    assert names == [["global", "u0"], ["u1", "u2"], ["u3", "u4"], []]


async def test_when_all_are_subscribed_anew_none_is_wanted_any_more() -> None:
    hub = SeatingHub(KEYS)
    hub.join(ScriptedMember(), "ann")
    hub.forget_wanted()
    assert hub.take_wanted(10) == []
    assert [audience.name.name for audience in hub.audiences] == ["global", "ann"]
    hub.join(ScriptedMember(), "bob")
    assert [audience.name.name for audience in hub.take_wanted(10)] == ["bob"]


async def test_a_stream_whose_last_client_has_left_lingers_and_is_dropped_then() -> None:
    replica = Replica()
    first, second = replica.join("ann"), replica.join("ann")
    replica.hub.tick(100)
    replica.hub.leave(first)
    replica.hub.tick(200)
    assert replica.hub.take_unwanted() == []
    replica.hub.leave(second)
    replica.wanted_times = 0
    replica.hub.tick(200 + LINGER_SECONDS - 1)
    assert replica.hub.take_unwanted() == []
    assert replica.wanted_times == 0
    replica.hub.tick(200 + LINGER_SECONDS)
    assert replica.wanted_times == 1
    assert [audience.name.name for audience in replica.hub.take_unwanted()] == ["ann"]
    assert replica.hub.take_unwanted() == []
    assert replica.hub.stream_count == 1
    replica.publish(b"late", "ann")  # on its way when it was dropped


async def test_a_client_that_comes_back_in_time_finds_its_stream() -> None:
    replica = Replica()
    replica.hub.leave(replica.join("ann"))
    member = ScriptedMember()
    replica.hub.join(member, "ann")
    assert member.opened_times == 1
    replica.hub.tick(10 * LINGER_SECONDS)
    assert replica.hub.take_unwanted() == []


async def test_a_stream_nobody_waited_for_is_dropped_too() -> None:
    replica = Replica()
    member = ScriptedMember()
    replica.hub.join(member, "ann")
    replica.hub.take_wanted(10)
    replica.hub.leave(member)
    replica.hub.tick(LINGER_SECONDS)
    assert [audience.name.name for audience in replica.hub.take_unwanted()] == ["ann"]


async def test_a_stream_whose_clients_have_left_before_it_was_subscribed_is_forgotten_at_once() -> None:
    replica = Replica()
    first, second = ScriptedMember(), ScriptedMember()
    replica.hub.join(first, "ann")
    replica.hub.join(second, "ann")
    replica.hub.leave(first)
    assert replica.hub.stream_count == 2
    replica.hub.leave(second)
    assert replica.hub.stream_count == 1
    assert [audience.name.name for audience in replica.hub.take_wanted(10)] == ["global"]
    replica.hub.tick(LINGER_SECONDS)
    assert replica.hub.take_unwanted() == []


async def test_of_a_forgotten_stream_nothing_is_kept() -> None:
    replica = Replica()
    member = replica.join("ann")
    audience = member.audience
    assert audience is not None
    replica.hub.unsettled[audience] = 0
    replica.hub.leave(member)
    replica.hub.tick(LINGER_SECONDS)
    assert replica.hub.take_unwanted() == [audience]
    never = ScriptedMember()
    replica.hub.join(never, "bob")
    replica.hub.leave(never)
    assert replica.hub.unsettled == {}
    assert set().union(*replica.hub._heartbeats._ring) == set()


async def test_of_a_crowd_that_has_left_the_last_streams_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.hub, "LINGERING_MOST", 3)
    replica = Replica()
    for member in [replica.join(f"u{number}") for number in range(5)]:
        replica.hub.leave(member)
    replica.wanted_times = 0
    replica.hub.tick(1)
    assert replica.wanted_times == 1
    assert [audience.name.name for audience in replica.hub.take_unwanted()] == ["u0", "u1"]
    assert replica.hub.take_unwanted() == []
    replica.hub.tick(LINGER_SECONDS)
    assert [audience.name.name for audience in replica.hub.take_unwanted()] == ["u2", "u3", "u4"]


async def test_the_stream_of_everyone_is_never_dropped() -> None:
    replica = Replica()
    replica.hub.leave(replica.join())
    replica.hub.tick(1_000)
    assert all(not audience.name.is_global for audience in replica.hub.take_unwanted())


async def test_a_stream_that_was_dropped_is_subscribed_anew_and_stands_where_redis_says() -> None:
    replica = Replica()
    replica.hub.leave(replica.join("ann"))
    replica.hub.tick(LINGER_SECONDS)
    replica.hub.take_unwanted()
    member = ScriptedMember()
    replica.hub.join(member, "ann")
    (audience,) = replica.hub.take_wanted(10)
    replica.hub.joined(audience, Meta(b"a", 41), {b"risk-events/0": 42})
    assert member.opened_times == 1
    replica.receive(audience.channel, 42, b"1")
    await idle(replica)
    assert data_of(member) == [b"1"]


# Gaps


async def test_a_gap_has_the_log_read_once_and_what_was_missed_is_pushed_in_order() -> None:
    replica = Replica()
    member = replica.join()
    channel = KEYS.live(KEYS.user_stream("ann"))
    replica.receive(channel, 1, b"1")
    replica.receive(channel, 3, b"3")
    replica.receive(channel, 4, b"4")
    ann = replica.audience("ann")
    assert replica.fetched == [ann]
    page = [Message(b"a", seq, b"risk-events/0", seq, 0, b"risk_alert", b"%d" % seq) for seq in (2, 3)]
    replica.hub.filled(ann, ann.stream.fill(Meta(b"a", 3), ann.stream.read_from(Meta(b"a", 3)), page))
    await idle(replica)
    assert data_of(member) == [b"1", b"2", b"3", b"4"]


async def test_a_message_that_comes_twice_is_written_once() -> None:
    replica = Replica()
    member = replica.join()
    channel = KEYS.live(KEYS.user_stream("ann"))
    for seq in (1, 2, 1, 2, 2, 3):
        replica.receive(channel, seq, b"%d" % seq)
    await idle(replica)
    assert data_of(member) == [b"1", b"2", b"3"]


async def test_a_hole_closes_those_who_cannot_be_told_and_nobody_else() -> None:
    replica = Replica()
    ann, types = replica.join("ann"), replica.join("ann", frozenset((b"risk_alert",)))
    bob = replica.join("bob")
    audience = replica.audience("ann")
    message = Message(b"a", 9, b"risk-events/0", 9, 0, b"risk_alert", b"9")
    replica.hub.filled(audience, Filled([message], complete=True, hole=True))
    await idle(replica)
    assert (ann.closed, types.closed, bob.closed) == (CloseCode.GAP, CloseCode.GAP, None)
    assert ann.writes == types.writes == bob.writes == []


async def test_a_hole_in_the_stream_of_everyone_closes_joiners_too() -> None:
    replica = Replica()
    first = replica.join("ann")
    replica.publish(b"1")
    joiner = replica.join("bob")
    replica.hub.filled(replica.audience(), Filled([], complete=True, hole=True))
    await idle(replica)
    assert (first.closed, joiner.closed) == (CloseCode.GAP, CloseCode.GAP)


@pytest.mark.parametrize(
    ("meta", "fetched"),
    [
        (Meta(b"a", 2), False),
        (Meta(b"a", 3), True),
        (Meta(b"b", 2), True),
        (Meta(b"a", 1), True),
        (Meta(), True),
    ],
    ids=["where it stood", "messages were missed", "another epoch", "Redis lost some", "Redis lost all"],
)
async def test_subscribed_again_a_stream_is_compared_with_redis(meta: Meta, fetched: bool) -> None:
    replica = Replica()
    replica.join("ann")
    replica.publish(b"1", "ann")
    replica.publish(b"2", "ann")
    ann = replica.audience("ann")
    replica.hub.joined(ann, meta, {})
    assert replica.fetched == ([ann] if fetched else [])
    replica.hub.joined(ann, meta, {})
    assert replica.fetched == ([ann] if fetched else [])


@pytest.mark.parametrize(
    ("meta", "fetched", "compared"),
    [
        (Meta(b"a", 2), False, True),
        (Meta(b"a", 3), True, False),
        (Meta(b"b", 2), True, False),
        (Meta(b"a", 1), False, True),
        (Meta(), True, False),
    ],
    ids=["where it stood", "one was missed", "another epoch", "one came after the answer", "Redis lost all"],
)
async def test_a_stream_is_compared_with_redis_in_silence(meta: Meta, fetched: bool, compared: bool) -> None:
    replica = Replica()
    replica.join("ann")
    replica.publish(b"1", "ann")
    replica.publish(b"2", "ann")
    replica.hub.tick(9)
    ann = replica.audience("ann")
    replica.hub.compared(ann, meta, None)
    assert replica.fetched == ([ann] if fetched else [])
    assert (ann.compared_at == 9) is compared


async def test_a_stream_that_is_being_filled_is_not_taken_to_be_complete() -> None:
    replica = Replica()
    replica.join("ann")
    replica.hub.tick(9)
    ann = replica.audience("ann")
    replica.hub.suspect(ann)
    replica.hub.compared(ann, Meta(), None)
    assert ann.compared_at != 9


async def test_more_messages_than_can_be_held_while_joining_have_the_log_read() -> None:
    replica = Replica()
    replica.hub.join(ScriptedMember(), "ann")
    everyone, ann = replica.hub.take_wanted(10)
    replica.hub.joined(everyone, Meta(), {})
    for seq in range(1, MAX_HELD_MESSAGES + 2):
        replica.receive(ann.channel, seq, b"x")
    replica.hub.joined(ann, Meta(), {})
    assert replica.fetched == [ann]
    assert not ann.stream.is_live


async def test_what_is_to_be_settled_is_known_also_when_an_epoch_began_during_the_joining() -> None:
    replica = Replica()
    everyone = replica.hub.everyone
    body = encode_body("risk-events/0", 3, 0, "risk_alert", b"{}")
    replica.hub.receive(everyone.channel.encode(), b"b 1 " + body)
    replica.hub.joined(everyone, Meta(b"a", 10), {b"risk-events/0": 11})
    assert not everyone.stream.is_settled
    assert everyone in replica.hub.unsettled, "its bucket would never be asked for"


def test_a_stream_that_was_dropped_while_its_log_was_read_is_not_waited_for() -> None:
    """It would be kept, and asked for each second, for ever."""
    replica = Replica()
    replica.seqs[KEYS.live(KEYS.user_stream("ann"))] = 10
    member = replica.join()
    ann = replica.audience("ann")
    replica.hub.suspect(ann)
    replica.hub.leave(member)
    replica.hub.tick(LINGER_SECONDS)
    assert replica.hub.take_unwanted() == [ann]
    replica.hub.filled(ann, ann.stream.fill(Meta(b"a", 5), 5, []))
    assert not ann.stream.is_settled
    assert not replica.hub.unsettled


async def test_suspicion_before_joining_is_answered_by_joining() -> None:
    replica = Replica()
    replica.hub.join(ScriptedMember(), "ann")
    replica.hub.suspect(replica.audience("ann"))
    assert replica.fetched == []


async def test_something_that_is_not_a_message_is_dropped_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    replica = Replica()
    member = replica.join()
    replica.publish(b"1", "ann")
    for payload in (b"", b"hello", b"a 2\n{}", b"a x risk-events/0 2 0 risk_alert\n{}", b"\xff\xfe\n"):
        replica.hub.receive(KEYS.live(KEYS.user_stream("ann")).encode(), payload)
    replica.publish(b"2", "ann")
    replica.hub.receive(b"notify:{u0}:live:nobody", b"whatever")
    await idle(replica)
    assert data_of(member) == [b"1", b"2"]


# Leaving with what is owed, and heartbeats


async def test_who_leaves_gets_what_is_owed_first_and_the_others_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.hub, "WRITES_A_TURN", 2)
    replica = Replica()
    members = [replica.join(f"user-{number}") for number in range(5)]
    for number in range(3):
        replica.publish(b"%d" % number)
    await turn()
    replica.publish(b"3")
    for member in members:  # some in the fan-out under way were reached, some not
        replica.hub.flush(member)
        assert data_of(member) == [b"0", b"1", b"2", b"3"]
    await idle(replica)
    assert all(data_of(member) == [b"0", b"1", b"2", b"3"] for member in members)
    assert not replica.hub.everyone.groups


async def test_a_heartbeat_comes_also_when_everybody_in_the_fan_out_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.hub, "WRITES_A_TURN", 1)
    replica = Replica()
    members = [ScriptedMember(None, f"user-{number}", Variant.V1) for number in range(3)]
    for member in members:
        replica.hub.join(member, member.name)
        replica.subscribe()
    replica.publish(b"1")
    await turn()
    stays = members[0] if members[0].writes else members[1]
    replica.hub.heartbeat(stays)
    for member in members:
        if member is not stays:
            replica.hub.flush(member)
    await idle(replica)
    await turn()
    assert b'"control":"heartbeat"' in stays.payloads[-1]
    assert [b'"type"' in payload for payload in stays.payloads] == [True, False]


async def test_a_heartbeat_waits_for_what_it_speaks_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.hub, "WRITES_A_TURN", 3)
    monkeypatch.setattr(gateway.group, "FAN_OUT_BYTES", 300)
    replica = Replica()
    members = [ScriptedMember(None, f"user-{number % 4}", Variant.V1) for number in range(20)]
    for member in members:
        replica.hub.join(member, member.name)
        replica.subscribe()
    told: list[int] = []
    for number in range(60):
        replica.publish(b"%d" % number, None if number % 3 else "user-1")
        if number % 5 == 0:
            for second in range(15):
                replica.hub.tick(second)
        await turn()
    await idle(replica)
    for member in members:
        top = 0
        for frame in map(json.loads, member.payloads):
            if frame.get("stream") == "global":
                top = frame["seq"]
            elif "global" in frame:
                told.append(frame["global"]["seq"])
                assert frame["global"]["seq"] == top, "all up to there was written before, and nothing behind it"
        assert top == 40
    assert len(told) > 10


async def test_heartbeats_tell_places_also_while_a_fan_out_is_always_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.hub, "WRITES_A_TURN", 4)
    replica = Replica()
    members = [ScriptedMember(None, "ann", Variant.V1) for _ in range(6)]
    for member in members:
        replica.hub.join(member, member.name)
        replica.subscribe()
    (group,) = replica.audience().groups.values()
    for _ in range(20):
        for _ in range(4):
            replica.publish(b"1")
            await turn()
        for second in range(15):
            replica.hub.tick(second)
        assert group.has_due
    for member in members:
        beats = [frame for frame in map(json.loads, member.payloads) if "control" in frame]
        assert len(beats) > 10
        assert sum("global" in beat for beat in beats) > 10


def counted(
    replica: Replica, user_ids: list[str], variant: Variant = Variant.V1
) -> tuple[list[ScriptedMember], list[int]]:
    """Seated members, and a list whose one number is how often they were written."""
    writes = [0]

    def wrote() -> None:
        writes[0] += 1

    members = [ScriptedMember(None, user_id, variant) for user_id in user_ids]
    for member in members:
        replica.hub.join(member, member.name)
        replica.subscribe()
        member.on_write = wrote
    return members, writes


async def most_writes_in_a_step(writes: list[int], until: int) -> int:
    """The most that were made between two turns of this task, until all were."""
    most = 0
    for _ in range(1_000_000):
        if writes[0] >= until:
            return most
        before = writes[0]
        await turn()
        most = max(most, writes[0] - before)
    raise AssertionError(f"{writes[0]} of {until} writes")


@pytest.mark.parametrize("user_ids", [[f"user-{n}" for n in range(900)], ["ann"] * 900], ids=["many users", "one user"])
@pytest.mark.parametrize("variant", [Variant.V1, Variant.EVENTS])
async def test_heartbeats_of_one_second_are_written_in_steps(
    user_ids: list[str], variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.heartbeats, "BEAT_PAUSE_SECONDS", 0.01)
    replica = Replica(heartbeat_seconds=1)
    members, writes = counted(replica, user_ids, variant)
    replica.hub.tick(1)
    assert 0 < writes[0] <= BEATS_A_STEP, "the first step is made at once"
    assert await most_writes_in_a_step(writes, len(members)) <= BEATS_A_STEP
    assert [len(member.writes) for member in members] == [1] * len(members)
    assert not replica.hub._heartbeats._next_asked


async def test_heartbeats_that_a_second_had_no_time_for_are_written_once() -> None:
    replica = Replica(heartbeat_seconds=1)
    members, writes = counted(replica, [f"user-{number}" for number in range(900)])
    for second in range(5):  # and no turn of the loop between
        replica.hub.tick(second)
    # The first step's are due again; all others still were.
    assert await most_writes_in_a_step(writes, len(members) + BEATS_A_STEP) <= BEATS_A_STEP
    times = [len(member.writes) for member in members]
    assert (min(times), times.count(2)) == (1, BEATS_A_STEP)
    assert not replica.hub._heartbeats._next_asked


@pytest.mark.parametrize("is_one_user", [False, True])
async def test_heartbeats_that_waited_for_a_fan_out_are_written_in_steps_too(is_one_user: bool) -> None:
    replica = Replica(heartbeat_seconds=1)
    user_ids = ["ann" if is_one_user else f"user-{number}" for number in range(1_500)]
    members, writes = counted(replica, user_ids)
    replica.publish(b"1")
    await turn()
    assert writes[0] == WRITES_A_TURN
    for _ in range(20):
        replica.hub.tick(1)  # all of them wait by now
    for number in range(2, 30):  # and a fan-out is due whenever one ends
        replica.publish(b"%d" % number)
        before = writes[0]
        await turn()
        assert writes[0] - before <= WRITES_A_TURN
    for _ in range(20_000):
        await idle(replica)
        if not replica.hub._heartbeats._next_asked:
            break
        await asyncio.sleep(0.001)
    for member in members:
        frames = [json.loads(payload) for payload in member.payloads]
        assert [frame["seq"] for frame in frames if "seq" in frame] == list(range(1, 30))
        beats = [place for place, frame in enumerate(frames) if "control" in frame]
        assert beats
        for place in beats:
            assert frames[place]["global"]["seq"] == max(f["seq"] for f in frames[:place] if "seq" in f)


async def test_a_heartbeat_never_takes_an_event_stream_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came during the fan-out that it waited for may be written before it."""
    monkeypatch.setattr(gateway.hub, "WRITES_A_TURN", 3)
    replica = Replica()
    members = [ScriptedMember(None, f"user-{number}", Variant.EVENTS) for number in range(8)]
    for member in members:
        replica.hub.join(member, member.name)
        replica.subscribe()
    for number in range(60):
        replica.publish(b"%d" % number)
        replica.hub.tick(number)
        await turn()
    await idle(replica)
    for member in members:
        ids = [int(line.split(b".")[1]) for line in b"".join(member.writes).splitlines() if line.startswith(b"id: ")]
        assert ids == sorted(ids)
        assert ids[-1] == 60


async def test_one_members_heartbeat_comes_behind_what_it_is_owed_and_before_all_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gateway.hub, "WRITES_A_TURN", 3)
    replica = Replica()
    members = [ScriptedMember(None, f"user-{number}", Variant.V1) for number in range(4)]
    for member in members:
        replica.hub.join(member, member.name)
        replica.subscribe()
    replica.publish(b"1")
    await turn()
    for member in members:
        replica.hub.heartbeat(member)
    replica.publish(b"2")
    await idle(replica)
    for member in members:
        first, beat, second = map(json.loads, member.payloads)
        assert (first["seq"], beat["global"]["seq"], second["seq"]) == (1, 1, 2)


async def test_a_heartbeat_that_waits_is_not_for_those_who_have_come_further(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.hub, "WRITES_A_TURN", 1)
    replica = Replica()
    members = [ScriptedMember(None, "ann", Variant.V1) for _ in range(4)]
    for member in members:
        replica.hub.join(member, member.name)
        replica.subscribe()
    replica.publish(b"1")
    await turn()
    for second in range(15):
        replica.hub.tick(second)
    replica.publish(b"2")
    for member in members[:2]:
        replica.hub.change_wishes(member, Wishes(Variant.V1, frozenset((b"risk_alert",))))
        replica.hub.change_wishes(member, Wishes(Variant.V1, None))
        replica.hub.heartbeat(member)
    await idle(replica)
    for member in members:
        top = 0
        for frame in map(json.loads, member.payloads):
            top = frame.get("seq", top)
            assert frame.get("global", frame).get("seq", top) == top


async def test_one_that_is_still_replayed_to_gets_no_heartbeat() -> None:
    """It would say that all was sent which is still to be replayed."""
    replica = Replica()
    seated, resuming = (ScriptedMember(None, "ann", Variant.V1) for _ in range(2))
    replica.hub.join(seated, "ann")
    replica.subscribe()
    resuming.subscribed = lambda: None  # type: ignore[method-assign]
    replica.hub.join(resuming, "ann")
    replica.hub.change_wishes(resuming, seated.wishes)
    replica.hub.heartbeat(resuming)
    assert not resuming.writes
    replica.hub.seat(resuming)
    replica.hub.heartbeat(resuming)
    assert len(resuming.payloads) == 1


async def test_one_that_is_closed_by_what_it_is_owed_stays_closed() -> None:
    for act in (
        lambda hub, member: hub.heartbeat(member),
        lambda hub, member: hub.flush(member),
        lambda hub, member: hub.change_wishes(member, Wishes(Variant.V1, frozenset((b"risk_alert",)))),
    ):
        replica = Replica()
        slow = ScriptedMember(None, "ann", Variant.V1)
        slow.on_write = lambda replica=replica, slow=slow: replica.hub.leave(slow)  # type: ignore[misc]
        replica.hub.join(slow, "ann")
        replica.subscribe()
        replica.publish(b"1")
        act(replica.hub, slow)
        await idle(replica)
        assert len(slow.writes) == 1
        assert not replica.hub.everyone.groups


# Floods


async def test_the_link_is_read_no_further_while_too_much_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.hub, "DUE_BYTES_HIGH", 300_000)
    monkeypatch.setattr(gateway.hub, "DUE_BYTES_LOW", 150_000)
    replica = Replica()
    member = replica.join()
    for _ in range(5):
        replica.publish(b"x" * 50_000)
    assert replica.floods == []
    for _ in range(5):
        replica.publish(b"x" * 50_000)
    assert replica.floods == [True]
    await idle(replica)
    assert replica.floods == [True, False]
    assert len(data_of(member)) == 10
    assert replica.hub._due_bytes == 0


async def test_a_flood_for_nobody_is_no_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.hub, "DUE_BYTES_HIGH", 1_000)
    replica = Replica()
    replica.join(types=frozenset((b"risk_alert",)))
    for _ in range(100):
        replica.publish(b"x" * 1_000, type_=b"market_alert")
    assert replica.floods == []
    assert not replica.hub._turn_due


# Everything together


@pytest.mark.parametrize("seed", range(40))
async def test_everyone_gets_what_came_between_joining_and_leaving(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Members come and go while fan-outs are cut in small pieces; a plain list is the oracle."""
    monkeypatch.setattr(gateway.hub, "WRITES_A_TURN", 3)
    monkeypatch.setattr(gateway.group, "FAN_OUT_BYTES", 120)
    chance = random.Random(seed)
    replica = Replica()
    users, kinds = ("ann", "bob"), (None, frozenset((b"risk_alert",)), frozenset((b"market_alert", b"risk_alert")))
    present: list[SimpleNamespace] = []
    gone: list[SimpleNamespace] = []

    def join() -> None:
        member = replica.join(chance.choice(users), chance.choice(kinds))
        present.append(SimpleNamespace(member=member, want=[]))

    def leave() -> None:
        if present:
            leaver = present.pop(chance.randrange(len(present)))
            replica.hub.leave(leaver.member)
            gone.append(leaver)

    def publish() -> None:
        user, type_ = chance.choice((None, *users)), chance.choice((b"risk_alert", b"market_alert"))
        data = b"%d" % sum(replica.seqs.values())
        replica.publish(data, user, type_)
        for one in present:
            wants = one.member.wishes.types is None or type_ in one.member.wishes.types
            if wants and user in (None, one.member.name):
                one.want.append((user, data))

    steps: tuple[Callable[[], None], ...] = (join, leave, publish, publish, publish)
    for _ in range(150):
        if chance.random() < 0.3:
            await turn()
        else:
            chance.choice(steps)()
    await idle(replica)
    for one in present:
        got = data_of(one.member)
        for stream in (None, *users):
            wanted = [data for user, data in one.want if user == stream]
            assert [data for data in got if data in wanted] == wanted
        assert len(got) == len(one.want)
    for one in gone:
        got = data_of(one.member)
        assert set(got) <= {data for _, data in one.want}
        assert len(set(got)) == len(got)
    assert replica.hub._due_bytes == 0
    assert sum(replica.hub.deliveries.counts.values()) >= sum(len(one.want) for one in present)
