"""The list of timers, page by page while they fire: what stays at its due time is seen exactly once."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from httpqueue.storage.embedded import EmbeddedValkey
from httpqueue.storage.lookup import Lookup, Window
from httpqueue.storage.storage import Storage
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Begun, Change, ChangeResult, NewTimer, Position, TimerPage
from httpqueue.timers.names import TimerName
from httpqueue.timers.schedule import Instant
from httpqueue.timers.spec import Spec
from httpqueue.timers.timer import FINISHED, State, Timer
from httpqueue.webhooks.outcome import Outcome
from tests.support.frozen import (
    HOUR_MS,
    T0_MS,
    FrozenTime,
    begin,
    begin_one,
    finish_of,
    new_timer,
    wake_up,
)
from tests.support.keys import PARTITIONS, record_key

EVERY = frozenset({State.SCHEDULED, State.RUNNING}) | FINISHED
COUNT = 3_000
NAMES = [f"t{number}" for number in range(12)]


@pytest.fixture
def lookup(frozen_storage: Storage) -> Lookup:
    """Lists what frozen_store holds."""
    return frozen_storage.lookup


def order(place: Position) -> tuple[int, TimerName]:
    """By which places are compared."""
    return place.due_ms, place.name


async def pages(lookup: Lookup, window: Window, look_at: int) -> AsyncIterator[TimerPage]:
    """All of them, in order."""
    place: Position | None = None
    while True:
        page = await lookup.list(window, place, look_at=look_at)
        assert len(page.timers) <= look_at
        yield page
        if page.next is None:
            return
        assert place is None or order(place) < order(page.next)
        place = page.next


async def ids(lookup: Lookup, window: Window, look_at: int = 7) -> list[str]:
    """Of every page."""
    return [timer.name.id async for page in pages(lookup, window, look_at) for timer in page.timers]


async def disturb(store: Store, timers: list[str], dice: random.Random) -> set[str]:
    """Begin some, end or cancel others, move a few; returns the ones whose own due time changed."""
    chosen = dice.sample(timers, 40)
    moved: set[str] = set()
    for answer in await begin(store, [wake_up(name) for name in chosen[:30]]):
        if isinstance(answer, Begun) and dice.random() < 0.8:
            outcome = dice.choice(list(Outcome))
            await store.finish([finish_of(answer, outcome, HOUR_MS)])
            if outcome is Outcome.RETRY:
                moved.add(answer.wake_up.name.id)
    for name in chosen[30:35]:
        # one of a former time would be deleted if it has failed: it must exist throughout
        found = await store.get(TimerName("default", name))
        assert found is not None
        if found.timer.version.endswith(".0.0.s"):
            await store.cancel(TimerName("default", name), version=found.timer.version, retention_ms=HOUR_MS)
    for name in chosen[35:]:
        [changed] = await store.change(
            [Change(TimerName("default", name), EVERY - {State.RUNNING}, due=Instant(T0_MS + 7))]
        )
        moved |= {name} if changed.result is ChangeResult.CHANGED else set()
    return moved


@pytest.mark.parametrize("seed", range(3))
async def test_what_stays_at_its_due_time_is_seen_once(
    frozen_store: Store, lookup: Lookup, seed: int
) -> None:
    """3,000 timers, hundreds at one instant, begin, end and are cancelled between pages of any size."""
    dice = random.Random(seed)
    names = [f"t{number}" for number in range(COUNT)]
    instants = [T0_MS - back for back in (0, 1, 2, 500, 10**9)]
    await frozen_store.create(
        [
            NewTimer(TimerName("default", name), Spec("http://receiver/", Instant(dice.choice(instants))))
            for name in names
        ]
    )
    moved: set[str] = set()
    seen: list[str] = []
    place, more = None, True
    while more:
        page = await lookup.list(Window(EVERY), place, look_at=dice.choice([1, 2, 50, 300, 1_000]))
        seen += [timer.name.id for timer in page.timers]
        place, more = page.next, page.next is not None
        moved |= await disturb(frozen_store, names, dice)
    stayed = [name for name in seen if name not in moved]
    assert len(stayed) == len(set(stayed))
    assert set(stayed) == set(names) - moved
    assert len(moved) < COUNT // 2  # most were told to stay


@given(
    spread=st.lists(st.integers(0, 2), min_size=len(NAMES), max_size=len(NAMES)),
    steps=st.lists(
        st.tuples(st.integers(1, 5), st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from("befx")))),
        min_size=1,
    ),
)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
def test_any_pages_and_any_moves(
    valkey_server: EmbeddedValkey, spread: list[int], steps: list[tuple[int, list[tuple[str, str]]]]
) -> None:
    """Whoever begins, is delivered, fails or is cancelled: each is seen once, in the order of due times."""

    async def check() -> None:
        async with Redis.from_url(valkey_server.url) as redis:
            await redis.flushall()
            time = FrozenTime()
            storage = Storage(redis, archive_error_rate=1e-6, partitions=PARTITIONS, now=time)
            seen = await _page_while_moving(storage.store, storage.lookup, spread, steps)
        due = dict(zip(NAMES, spread, strict=True))
        assert sorted(timer.name.id for timer in seen) == sorted(NAMES)
        assert [timer.name.id for timer in seen] == sorted(
            NAMES, key=lambda name: (due[name], f"default:{name}")
        )

    asyncio.run(check())


async def _page_while_moving(
    store: Store, lookup: Lookup, spread: list[int], steps: list[tuple[int, list[tuple[str, str]]]]
) -> list[Timer]:
    await store.create(
        [
            NewTimer(TimerName("default", name), Spec("http://receiver/", Instant(T0_MS - 2 + offset)))
            for name, offset in zip(NAMES, spread, strict=True)
        ]
    )
    seen: list[Timer] = []
    place, more, number = None, True, 0
    while more:
        look_at, moves = steps[number % len(steps)]
        page = await lookup.list(Window(EVERY), place, look_at=look_at)
        seen += page.timers
        place, more, number = page.next, page.next is not None, number + 1
        for name, move in moves:
            await _move(store, name, move)
    return seen


async def _move(store: Store, name: str, move: str) -> None:
    if move == "x":
        found = await store.get(TimerName("default", name))
        if found and found.timer.state is State.SCHEDULED:  # a failed one would be deleted
            await store.cancel(TimerName("default", name), version=None, retention_ms=HOUR_MS)
        return
    [begun] = await begin(store, [wake_up(name)])
    if isinstance(begun, Begun) and move != "b":
        outcome = Outcome.DELIVERED if move == "e" else Outcome.FAILED
        await store.finish([finish_of(begun, outcome)])


# --- filters ---


async def bring_all(store: Store) -> None:
    """A timer in each state, all due at once, in two applications."""
    for application in ("default", "shop"):
        names = ["scheduled", "running", "done", "failed", "cancelled"]
        await store.create([replace(new_timer(name), name=TimerName(application, name)) for name in names])
        for name in names[1:4]:
            [begun] = await begin(store, [wake_up(name, application=application)])
            assert isinstance(begun, Begun)
            if name != "running":
                outcome = Outcome.DELIVERED if name == "done" else Outcome.FAILED
                await store.finish([finish_of(begun, outcome)])
        await store.cancel(TimerName(application, "cancelled"), version=None, retention_ms=HOUR_MS)


@pytest.mark.parametrize("look_at", [1, 3, 1_000])
@pytest.mark.parametrize("application", [None, "default", "shop", "nobody"])
async def test_states_and_application(
    frozen_store: Store, lookup: Lookup, application: str | None, look_at: int
) -> None:
    """Each state alone, pairs, and all: exactly the timers that are in them."""
    await bring_all(frozen_store)
    copies = {None: 2, "nobody": 0}.get(application, 1)
    for states in [{state} for state in EVERY] + [{State.SCHEDULED, State.FAILED}, set(EVERY)]:
        window = Window(frozenset(states), application)
        found = [timer async for page in pages(lookup, window, look_at) for timer in page.timers]
        assert sorted(timer.name.id for timer in found) == sorted(sorted(states) * copies)
        assert {timer.name.application for timer in found} <= {application or "default", "shop"}
        assert all(timer.state.value == timer.name.id for timer in found)


async def test_the_window_of_due_times(frozen_store: Store, lookup: Lookup) -> None:
    """Both ends are in it; a place before it does not widen it."""
    await frozen_store.create([new_timer(f"t{ms}", ms) for ms in range(10)])
    window = Window(EVERY, from_ms=T0_MS + 3, to_ms=T0_MS + 5)
    assert await ids(lookup, window, look_at=1) == ["t3", "t4", "t5"]
    page = await lookup.list(window, Position(T0_MS, TimerName("default", "t9")), look_at=9)
    assert [timer.name.id for timer in page.timers] == ["t3", "t4", "t5"]
    assert page.next is None


async def test_the_place_may_be_of_a_timer_that_is_gone(frozen_store: Store, lookup: Lookup) -> None:
    """The list goes on behind where it was, among equal due times by name."""
    await frozen_store.create([new_timer(name) for name in ("a", "B", "c", "d")])
    page = await lookup.list(Window(EVERY), Position(T0_MS, TimerName("default", "bb")), look_at=9)
    assert [timer.name.id for timer in page.timers] == ["c", "d"]
    assert await ids(lookup, Window(EVERY)) == ["B", "a", "c", "d"]


async def test_a_page_never_looks_at_more_than_a_thousand(frozen_store: Store, lookup: Lookup) -> None:
    """Whatever is asked for."""
    await frozen_store.create([new_timer(f"t{number}") for number in range(1_001)])
    page = await lookup.list(Window(EVERY), None, look_at=10_000)
    assert len(page.timers) == 1_000
    assert page.next is not None


async def test_what_cannot_be_read_or_is_over_is_left_out(
    redis: Redis, frozen_store: Store, lookup: Lookup, time: FrozenTime
) -> None:
    """Its neighbours are listed, and the page goes on behind it."""
    await frozen_store.create([new_timer(name) for name in ("a", "bad", "over", "z")])
    await frozen_store.finish([finish_of(await begin_one(frozen_store, "over"), Outcome.FAILED, 5)])
    await redis.set(record_key("bad"), b"garbage")
    assert await ids(lookup, Window(EVERY), look_at=1) == ["a", "over", "z"]
    time.advance(5)
    assert await ids(lookup, Window(EVERY), look_at=1) == ["a", "z"]
