"""Names in Redis."""

from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from httpqueue.storage import keys
from httpqueue.timers.commands import WakeUp
from httpqueue.timers.names import TimerName
from tests.support.keys import QUEUE, STORE

NAME = st.text(st.sampled_from("abcXYZ019._~-"), min_size=1, max_size=128)


@given(NAME, NAME, st.integers(0, 2**53))
def test_wake_up_id_round_trip(application: str, timer_id: str, generation: int) -> None:
    """A wake-up's id says which timer and generation it is of."""
    wake_up = WakeUp(TimerName(application, timer_id), generation)
    assert keys.parse_wake_up_id(keys.wake_up_id(wake_up)) == wake_up


@given(NAME, NAME)
def test_member_round_trip(application: str, timer_id: str) -> None:
    """What stands in the indices says which timer it is."""
    name = TimerName(application, timer_id)
    assert keys.name_of(keys.member_of(name).encode()) == name


@pytest.mark.parametrize("member", [b"", b"a", b"a:b:c", b"\xff:a"])
def test_what_is_no_member(member: bytes) -> None:
    """One exception for all of it."""
    with pytest.raises(ValueError, match=r"."):
        keys.name_of(member)


@pytest.mark.parametrize(
    "foreign",
    [
        "",
        "7",
        "a:7",
        "a:b",
        "a:b:",
        "a:b:x",
        "a:b:-1",
        "a:b:07",
        "a:b: 7",
        "a:b:7\n",
        "a:b:1_0",
        "a:b:٣",  # isdecimal, and int() reads it
        "a:b:c:7",
        "a:b:" + "9" * 17,
        "a:b:" + "9" * 5_000,  # more digits than int() reads
        "0b0f4a3e4f2e4d0c8f6a2c9c0e1d7b55",  # as stock arq names a job
    ],
)
def test_foreign_wake_up_id(foreign: str) -> None:
    """An entry that wake_up_id did not write is not ours."""
    assert keys.parse_wake_up_id(foreign) is None


@given(st.text())
def test_any_wake_up_id(text: str) -> None:
    """Whatever stands in the queue is read or refused; what is read is written the same again."""
    parsed = keys.parse_wake_up_id(text)
    assert parsed is None or keys.wake_up_id(parsed) == text


def test_store_keys_share_a_slot() -> None:
    """Every key that a script touches carries the partition's hash tag."""
    of_a_timer = [*asdict(STORE).values(), QUEUE.queue]
    assert all("{0}" in key for key in of_a_timer)
    assert len(set(of_a_timer)) == len(of_a_timer)


def test_partitions_share_no_key() -> None:
    """But for the job definitions, whose names hold the timer's."""
    for of_partition in (keys.store_keys, keys.queue_keys):
        both = [asdict(of_partition(partition)).values() for partition in (0, 1)]
        assert {*both[0]} & {*both[1]} <= {QUEUE.jobs}
