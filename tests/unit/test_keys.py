"""Names in Redis."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from httpqueue.storage import keys
from tests.support.keys import QUEUE, STORE

NAME = st.text(st.sampled_from("abcXYZ019._~-"), min_size=1, max_size=128)


@given(NAME, NAME, st.integers(0, 2**53))
def test_wake_up_id_round_trip(application: str, timer_id: str, generation: int) -> None:
    """A wake-up's id says which timer and generation it is of."""
    member = keys.member(application, timer_id)
    assert keys.parse_wake_up_id(keys.wake_up_id(member, generation)) == (member, generation)


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
    assert parsed is None or keys.wake_up_id(*parsed) == text


def test_store_keys_share_a_slot() -> None:
    """Every key that a script touches carries the partition's hash tag."""
    of_a_timer = (
        STORE.records,
        STORE.due,
        STORE.outbox,
        STORE.outbox_dead,
        STORE.set_aside,
        STORE.archive_layers,
        STORE.archive_counts,
        QUEUE.queue,
    )
    assert all(keys.PARTITION in key for key in of_a_timer)
    assert len(set(of_a_timer)) == len(of_a_timer)
