"""The fairness rule: who may start a call, what a batch may start, whose line is served, what is claimed."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from httpqueue.worker.slots import FIRST_CLAIM, HOLD_S, PAUSE_S, REST_S, ClaimLimit, Lines, Slots

CALLS = st.tuples(st.sampled_from("abc"), st.sampled_from(["h", "i", "j", "ruled"]))


def fill(slots: Slots, application: str, host: str) -> int:
    """Start calls until the rule says no; how many."""
    count = 0
    while slots.may_start(application, host):
        slots.begin(application, host)
        count += 1
    return count


def test_a_host_gets_its_cap_while_slots_are_plenty() -> None:
    """Also when the cap is half of all slots, which the shrinking share must not touch yet."""
    assert fill(Slots(10_000, 200), "a", "h") == 200
    assert fill(Slots(10_000, 1_000), "a", "h") == 1_000


def test_the_cap_counts_the_calls_of_all_applications() -> None:
    """The receiver does not care who calls."""
    slots = Slots(10_000, 200)
    assert fill(slots, "a", "h") == 200
    assert not slots.may_start("b", "h")


@pytest.mark.parametrize("cap", [1, 50, 1_000])
def test_a_rule_overrides_the_cap(cap: int) -> None:
    """Both ways; and others keep theirs."""
    slots = Slots(10_000, 200)
    slots.caps["h"] = cap
    assert slots.room().take("a", "h")
    assert fill(slots, "a", "h") == cap
    assert fill(slots, "a", "i") == 200


def test_an_application_leaves_a_fifth_of_the_slots() -> None:
    """However many hosts it calls."""
    slots = Slots(1_000, 1_000)
    assert sum(fill(slots, "a", str(host)) for host in range(1_000)) == 800
    assert slots.free == 200
    assert slots.may_start("b", "h")


def test_each_host_leaves_nearly_all_that_is_left() -> None:
    """So the hundredth that hangs still leaves a call or ten to the next one; of 1,000 slots it does not."""
    for total, least, most in ((10_000, 8, 20), (1_000, 0, 0)):
        slots = Slots(total, 200)
        for host in range(100):
            fill(slots, "a", str(host))
        assert least <= fill(slots, "a", "healthy") <= most


def test_one_worker_with_one_slot_makes_calls() -> None:
    """Thresholds round up."""
    slots = Slots(1, 200)
    assert slots.room().take("a", "h")
    assert fill(slots, "a", "h") == 1


def test_a_call_that_never_began_does_not_end() -> None:
    """And changes no number."""
    slots = Slots(10, 10)
    slots.begin("a", "h")
    for call in (("a", "i"), ("b", "h")):
        with pytest.raises(KeyError):
            slots.end(*call)
    assert slots.free == 9
    slots.end("a", "h")
    assert slots.room() == Slots(10, 10).room()


def test_the_tables_are_small_while_nothing_is_scarce() -> None:
    """1,000 calls to 100 hosts of 100 applications: nobody needs to be named."""
    slots = Slots(10_000, 200)
    for call in range(1_000):
        slots.begin(str(call % 100), str(call % 100))
    room = slots.room()
    assert (room.applications, room.pairs, room.hosts, room.caps) == ({}, {}, {}, {})


@given(
    st.sampled_from([1, 3, 20, 100, 400]),
    st.sampled_from([1, 4, 20, 200]),
    st.sampled_from([None, 1, 7, 300]),
    st.lists(st.tuples(CALLS, st.integers(1, 90))),
    st.lists(CALLS, min_size=1),
)
def test_a_batch_passes_no_threshold_and_its_first_is_decided_exactly(
    total: int,
    host_slots: int,
    cap: int | None,
    before: list[tuple[tuple[str, str], int]],
    batch: list[tuple[str, str]],
) -> None:
    """So that nobody who has room is refused again and again."""
    slots = Slots(total, host_slots)
    if cap is not None:
        slots.caps["ruled"] = cap
    for call, times in before:
        for _ in range(times):
            if slots.may_start(*call):
                slots.begin(*call)
    for call in {*batch}:
        assert slots.room().take(*call) == slots.may_start(*call)
    room = slots.room()
    for call in batch:
        if room.take(*call):
            assert slots.may_start(*call)
            slots.begin(*call)


@pytest.mark.parametrize("host_slots", [1, 9, 40, 200])
def test_no_batch_passes_a_threshold_whatever_came_before(host_slots: int) -> None:
    """Any number of calls of one application, then as many of a second one as a batch may start."""
    for total in range(1, 41):
        for before in range(total):
            slots = Slots(total, host_slots)
            for call in range(before):
                slots.begin("a" if call % 3 else "b", str(call % 5))
            room = slots.room()
            for call in range(total):
                if room.take("b", str(call)):
                    assert slots.may_start("b", str(call))
                    slots.begin("b", str(call))


def test_a_host_with_a_rule_is_never_taken_for_another() -> None:
    """Its share may be smaller than what counts as a few calls of others."""
    slots = Slots(1_000, 200)
    slots.caps["ruled"] = 20
    for _ in range(6):
        slots.begin("a", "ruled")
    while slots.may_start("a", "ruled"):
        slots.begin("b", f"h{slots.free}")
    assert slots.room().few >= 6
    assert not slots.room().take("a", "ruled")


@given(st.lists(CALLS, min_size=1))
def test_a_batch_is_decided_exactly_for_who_is_in_the_tables(batch: list[tuple[str, str]]) -> None:
    """All are, when all have many calls."""
    slots = Slots(800, 200)
    for application in "abc":
        for host in ("h", "i", "j", "ruled"):
            for _ in range(35):
                slots.begin(application, host)
    room = slots.room()
    assert {len(hosts) for hosts in room.pairs.values()} == {4}
    for call in batch:
        may_start = slots.may_start(*call)
        assert room.take(*call) == may_start
        if may_start:
            slots.begin(*call)


def test_the_room_of_hosts_is_what_a_batch_to_them_may_start() -> None:
    """Of hosts without a rule. Nobody knows of no host, so then every slot counts."""
    slots = Slots(10_000, 100)
    for calls in (0, 5, 40, 100):
        while slots.room_of(["h"]) and 10_000 - slots.free < calls:
            slots.begin("a", "h")
        room = slots.room()
        assert sum(room.take("a", "h") for _ in range(200)) == slots.room_of(["h"])
    assert slots.room_of([]) == slots.free
    slots.caps["ruled"] = 3
    assert slots.room_of(["h", "i"]) == slots.room_of(["h"]) + slots.room_of(["i"])


def test_lines_are_served_in_turns() -> None:
    """Each timer counts for those after it, and a round ends where the limit is."""
    slots = Slots(10_000, 3)
    lines = Lines(slots)
    for host, waiting in (("h", 9), ("i", 2), ("j", 9)):
        lines.note_line(host, waiting, "a", 0)
    assert lines.to_serve(4, 0) == [("h", 2), ("i", 1), ("j", 1)]
    assert lines.to_serve(100, 0) == [("h", 3), ("i", 1), ("j", 3)]
    assert slots.free == 10_000


def test_who_was_served_goes_to_the_end() -> None:
    """So a small limit favours nobody."""
    lines = Lines(Slots(10_000, 200))
    for host in "hij":
        lines.note_line(host, 9, "a", 0)
    assert [lines.to_serve(1, 0)[0][0] for _ in range(6)] == ["h", "i", "j", "h", "i", "j"]


def test_a_line_without_room_keeps_its_place() -> None:
    """Others are served meanwhile; it is first when it has room."""
    slots = Slots(10_000, 1)
    lines = Lines(slots)
    slots.begin("a", "h")
    for host in ("h", "i"):
        lines.note_line(host, 5, "a", 0)
    assert lines.to_serve(1, 0) == [("i", 1)]
    assert lines.to_serve(1, 0) == [("i", 1)]
    slots.end("a", "h")
    assert lines.to_serve(1, 0) == [("h", 1)]


def test_a_host_that_gave_no_permit_is_left_alone_for_a_moment() -> None:
    """A rate or other workers may hold its line up. When a call to it ends, it is asked at once."""
    lines = Lines(Slots(10_000, 200))
    lines.note_line("h", 5, "a", 0)
    lines.note_served("h", 0, 0)
    assert lines.to_serve(9, REST_S / 2) == []
    assert lines.to_serve(9, REST_S) == [("h", 5)]
    lines.note_line("h", 5, "a", 0)
    lines.note_served("h", 0, 0)
    lines.note_end("h", 0)
    assert lines.to_serve(9, 0) == [("h", 5)]
    lines.note_served("unknown", 0, 0)


def test_a_line_is_forgotten_when_the_store_says_that_it_is_empty() -> None:
    """And never served beyond what waits."""
    lines = Lines(Slots(10_000, 200))
    lines.note_line("h", 2, "a", 0)
    assert lines.to_serve(100, 0) == [("h", 2)]
    assert lines.to_serve(100, 0) == []
    lines.note_line("h", 1, "a", 0)
    lines.note_line("h", 0, "", 0)
    lines.note_line("never", 0, "", 0)
    assert lines.to_serve(100, 0) == []


def test_the_first_timer_s_application_decides_whether_a_line_has_room() -> None:
    """Its name changes when the store says so."""
    slots = Slots(10, 200)
    for _ in range(9):
        slots.begin("a", "h")
    lines = Lines(slots)
    lines.note_line("i", 1, "a", 0)
    assert lines.to_serve(100, 0) == []
    lines.note_line("i", 1, "b", 0)
    assert lines.to_serve(100, 0) == [("i", 1)]


def test_a_new_line_holds_back_claims_for_a_while() -> None:
    """Then it stands. After that no new line does, until the pause is over."""
    lines = Lines(Slots(10_000, 200))
    lines.note_line("h", 7, "a", 0)
    assert (lines.passing(HOLD_S / 2), lines.is_passing("h", HOLD_S / 2)) == (7, True)
    assert (lines.passing(HOLD_S), lines.is_passing("h", HOLD_S)) == (0, False)
    lines.note_line("i", 5, "a", HOLD_S)
    assert (lines.passing(HOLD_S), lines.is_passing("i", HOLD_S)) == (0, False)
    later = HOLD_S + PAUSE_S
    lines.note_line("j", 3, "a", later)
    assert (lines.passing(later), lines.is_passing("i", later), lines.is_passing("k", later)) == (
        3,
        False,
        False,
    )


def test_a_line_whose_host_is_quick_passes_whatever_happened_before() -> None:
    """As many calls have ended lately as timers wait; when no more end, it stands again."""
    lines = Lines(Slots(10_000, 200))
    lines.note_line("slow", 9, "a", 0)
    assert lines.passing(HOLD_S) == 0  # from now on new lines stand
    lines.note_line("quick", 3, "a", HOLD_S)
    for number in range(3):
        assert not lines.is_passing("quick", HOLD_S)
        lines.note_end("quick", HOLD_S + number * 0.01)
        lines.note_end("unknown", HOLD_S)
    assert lines.passing(HOLD_S + 0.03) == 3
    assert not lines.is_passing("quick", HOLD_S + 0.03 + 1.5 * HOLD_S)


def test_claims_follow_what_begins_and_grow_again() -> None:
    """Never below 1, or nothing would ever be learnt; never above the most."""
    limit = ClaimLimit(500)
    assert limit.size(0) == FIRST_CLAIM
    for _ in range(4):  # twice as many each time, while nobody knows
        limit.note_begun(limit.size(0), 0)
    assert limit.size(0) == 500
    limit.note_begun(300, 200)
    assert limit.size(0) == 300
    assert (limit.size(299), limit.size(301)) == (1, 0)
    for _ in range(20):
        limit.note_begun(0, 10)
    assert limit.size(0) == 1
    for _ in range(60):
        limit.note_begun(1, 0)
    assert limit.size(0) == 500


@given(st.integers(1, 20), st.integers(1, 20), st.data())
def test_every_line_is_served(total: int, host_slots: int, data: st.DataObject) -> None:
    """Whoever else wants slots: lines come first, and who was not served keeps its place."""
    slots = Slots(total, host_slots)
    lines = Lines(slots)
    waiting = Counter(data.draw(st.lists(st.sampled_from([f"h{n}" for n in range(8)]), max_size=60)))
    running: list[tuple[str, str]] = []
    application = {host: "ab"[int(host[1]) % 2] for host in waiting}
    for host, many in waiting.items():
        lines.note_line(host, many, application[host], 0)
    for _ in range(20 * total + 20 * sum(waiting.values())):
        room = slots.room()
        for host, want in lines.to_serve(data.draw(st.integers(1, 9)), 0):
            for _ in range(want):
                if room.take(application[host], host):
                    slots.begin(application[host], host)
                    running.append((application[host], host))
                    waiting[host] -= 1
            lines.note_line(host, waiting[host], application[host], 0)
        if not +waiting:
            return
        other = data.draw(st.tuples(st.sampled_from("abc"), st.just("other")))
        if slots.may_start(*other):  # a wake-up that was just claimed
            slots.begin(*other)
            running.append(other)
        if running:
            slots.end(*running.pop(0))  # every call ends some time
    raise AssertionError(+waiting)
