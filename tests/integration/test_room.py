"""begin.lua starts exactly what Room.take of timers/room.py lets start."""

import asyncio
from collections.abc import Sequence
from copy import deepcopy

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from httpqueue.storage.embedded import EmbeddedValkey
from httpqueue.storage.storage import Storage
from httpqueue.timers.commands import Begun, NewTimer, Refusal, Refused, WakeUp
from httpqueue.timers.names import TimerName
from httpqueue.timers.room import Room
from httpqueue.timers.schedule import Delay
from httpqueue.timers.spec import Spec
from httpqueue.worker.slots import Slots
from tests.support.frozen import FrozenTime, begin
from tests.support.keys import PARTITIONS, here

APPLICATIONS = ("a", "b", "c")
HOSTS = ("h", "i", "j", "ruled")
FEW = st.integers(0, 12)
PAIRS = st.tuples(st.sampled_from(APPLICATIONS), st.sampled_from(HOSTS))
Pair = tuple[str, str]


@st.composite
def rooms_of_slots(draw: st.DrawFn) -> Room:
    """What a worker with some calls in flight gives."""
    slots = Slots(draw(st.sampled_from([1, 3, 20, 100])), draw(st.sampled_from([1, 4, 20, 200])))
    cap = draw(st.sampled_from([None, 1, 7, 300]))
    if cap is not None:
        slots.caps["ruled"] = cap
    for call, times in draw(st.lists(st.tuples(PAIRS, st.integers(1, 40)), max_size=6)):
        for _ in range(times):
            if slots.may_start(*call):
                slots.begin(*call)
    return slots.room()


any_rooms = st.builds(
    Room,
    total=st.integers(1, 60),
    free=st.integers(0, 30),
    host_slots=st.integers(1, 12),
    caps=st.dictionaries(st.sampled_from(HOSTS), st.integers(1, 12)),
    few=FEW,
    few_to_host=FEW,
    applications=st.dictionaries(st.sampled_from(APPLICATIONS), st.tuples(st.integers(0, 60), FEW)),
    pairs=st.dictionaries(st.sampled_from(APPLICATIONS), st.dictionaries(st.sampled_from(HOSTS), FEW)),
    hosts=st.dictionaries(st.sampled_from(HOSTS), FEW),
)


async def begun_by_the_script(url: str, room: Room, batch: Sequence[Pair]) -> list[bool]:
    """Which of a batch of timers of (application, host) begin in one call, in their order."""
    redis = Redis.from_url(url)
    try:
        await redis.flushall()
        storage = Storage(redis, archive_error_rate=1e-6, partitions=PARTITIONS, now=FrozenTime())
        names = [
            TimerName(application, here(f"t{number}", application=application))
            for number, (application, _) in enumerate(batch)
        ]
        await storage.store.create(
            [
                NewTimer(name, Spec(f"http://{host}/", Delay(0)))
                for name, (_, host) in zip(names, batch, strict=True)
            ]
        )
        answers = await begin(storage.store, [WakeUp(name, 0) for name in names], room=room)
    finally:
        await redis.aclose()
    for answer, (_, host) in zip(answers, batch, strict=True):
        if isinstance(answer, Refused):
            assert (answer.refusal, answer.host) == (Refusal.NEEDS_PERMIT, host)
    return [isinstance(answer, Begun) for answer in answers]


@pytest.mark.timeout(300)
def test_begin_decides_as_room_does(valkey_server: EmbeddedValkey) -> None:
    """For rooms that a worker gives, and for any others."""

    @given(rooms_of_slots() | any_rooms, st.lists(PAIRS, min_size=1, max_size=40))
    @settings(max_examples=300, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
    def compare(room: Room, batch: list[Pair]) -> None:
        counted = deepcopy(room)
        expected = [counted.take(*pair) for pair in batch]
        assert asyncio.run(begun_by_the_script(valkey_server.url, room, batch)) == expected

    compare()
