"""A timer in each of its states, for the tests of what may be done to it there."""

from typing import Final

import pytest
from redis.asyncio import Redis

from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Change, Changed
from httpqueue.timers.names import TimerName
from httpqueue.timers.timer import State, Timer
from httpqueue.webhooks.outcome import Outcome
from tests.support.frozen import HOUR_MS, FrozenTime, begin_one, finish_of, new_timer
from tests.support.keys import Everywhere

STATES: Final = (State.SCHEDULED, State.RUNNING, State.DONE, State.FAILED, State.CANCELLED)
LETTERS: Final = frozenset(state.letter for state in STATES)
ANY: Final = frozenset(STATES) - {State.RUNNING}
"""Those in which a timer may be changed."""
OTHER: Final = new_timer("a", 900, body="other").spec
in_each_state: Final = pytest.mark.parametrize("state", STATES)


async def bring(store: Store, time: FrozenTime, state: State) -> Timer:
    """The timer `a`, due 100 ms after the beginning, in that state 500 ms after it."""
    await store.create([new_timer("a", 100)])
    time.advance(500)
    if state is State.CANCELLED:
        await store.cancel(TimerName("default", "a"), version=None, retention_ms=HOUR_MS)
    elif state is not State.SCHEDULED:
        begun = await begin_one(store, "a")
        ends = {State.DONE: Outcome.DELIVERED, State.FAILED: Outcome.FAILED}
        if state in ends:
            await store.finish([finish_of(begun, ends[state])])
    return await stored(store)


async def stored(store: Store, timer_id: str = "a") -> Timer:
    """A timer that must be there."""
    found = await store.get(TimerName("default", timer_id))
    assert found is not None
    return found.timer


async def change_one(store: Store, change: Change) -> Changed:
    """Its answer."""
    [answer] = await store.change([change])
    return answer


async def counted(redis: Redis) -> dict[str, int]:
    """Timers by state letter."""
    counts = await Everywhere(redis).hash("counts")
    return {
        field.removeprefix("default:"): count
        for field, count in counts.items()
        if field.partition(":")[2] in LETTERS
    }
