"""Names in Redis."""

from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from httpqueue.storage import keys
from httpqueue.storage.partitions import MAX_PARTITIONS
from httpqueue.timers.commands import WakeUp
from httpqueue.timers.names import TimerName
from tests.support.keys import QUEUE, STORE

NAME = st.text(st.sampled_from("abcXYZ019._~-"), min_size=1, max_size=128)


@given(NAME, NAME, st.integers(0, 2**53), st.integers(0, MAX_PARTITIONS - 1))
def test_wake_up_id_round_trip(application: str, timer_id: str, generation: int, partition: int) -> None:
    """A wake-up's id says which timer and generation it is of, and where the timer is."""
    wake_up = WakeUp(TimerName(application, timer_id), generation, partition=partition)
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
        "a:b:7",
        "{}a:b:7",
        "{x}a:b:7",
        "{-1}a:b:7",
        "{01}a:b:7",
        "{٣}a:b:7",  # isdecimal, and int() reads it
        "{999999}a:b:7",
        "{0a:b:7",
        " {0}a:b:7",
        "{0}a:7",
        "{0}a:b",
        "{0}a:b:",
        "{0}a:b:x",
        "{0}a:b:-1",
        "{0}a:b:07",
        "{0}a:b: 7",
        "{0}a:b:7\n",
        "{0}a:b:1_0",
        "{0}a:b:٣",
        "{0}a:b:c:7",
        "{0}a:b:" + "9" * 17,
        "{0}a:b:" + "9" * 5_000,  # more digits than int() reads
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
    of_a_timer = [*asdict(STORE).values(), *asdict(QUEUE).values()]
    assert all("{0}" in key for key in of_a_timer)
    assert len(set(of_a_timer)) == len(of_a_timer)


def test_a_job_has_the_key_that_arq_gives_it() -> None:
    """In the slot of its partition."""
    wake_up = WakeUp(TimerName("shop", "a"), 3, partition=0)
    assert keys.wake_up_id(wake_up) == "{0}shop:a:3"
    assert keys.ARQ_JOB_PREFIX + keys.wake_up_id(wake_up) == f"{QUEUE.jobs}shop:a:3"


def test_the_keys_of_a_host_share_a_slot() -> None:
    """And no other host has them, nor a partition."""
    of_hosts = [list(asdict(of_a_host).values()) for of_a_host in map(keys.host_keys, ("a", "b", "0"))]
    for host, of_a_host in zip(("a", "b", "0"), of_hosts, strict=True):
        assert all(f"{{host:{host}}}" in key for key in of_a_host)
    index = asdict(keys.host_index_keys()).values()
    assert all("{hosts}" in key for key in index)
    every = [key for of_a_host in of_hosts for key in of_a_host] + [*index, *asdict(STORE).values()]
    assert len(set(every)) == len(every)


def test_partitions_share_no_key() -> None:
    """Not even one that is the beginning of another's."""
    for of_partition in (keys.store_keys, keys.queue_keys):
        one, other = ({*asdict(of_partition(partition)).values()} for partition in (1, 11))
        assert not any(key.startswith(prefix) for key in other for prefix in one)
