"""The deadlines of many calls share one timer."""

import asyncio
from unittest.mock import Mock

from httpqueue.webhooks.client.http1.call import Call
from httpqueue.webhooks.client.http1.deadlines import TICKS_PER_S, Deadlines
from httpqueue.webhooks.message import Response
from tests.support.http1 import Now


def add(deadlines: Deadlines, timeout_s: float) -> Call:
    """A call with that timeout."""
    call = Call("POST", timeout_s, lambda _result: None)
    deadlines.add(call)
    return call


async def test_a_call_expires_at_its_deadline() -> None:
    """Not before, and at most a tick after."""
    now, expired = Now(), list[Call]()
    deadlines = Deadlines(expired.append, now)
    calls = [add(deadlines, timeout_s) for timeout_s in (0.31, 0.11, 0.2, 0.11, 20.01)]
    start_s = now.s
    for call in (calls[1], calls[2], calls[0], calls[4]):
        now.s = start_s + call.timeout_s - 0.001
        deadlines.expire()
        assert call not in expired
        now.s = start_s + call.timeout_s + 1 / TICKS_PER_S
        deadlines.expire()
        assert call in expired
    assert len(expired) == 5
    deadlines.close()


async def test_the_timer_waits_for_the_earliest_deadline() -> None:
    """Also when that is added last."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Call] = loop.create_future()
    deadlines = Deadlines(done.set_result)
    add(deadlines, 3_600)
    soon = add(deadlines, 0.01)
    async with asyncio.timeout(10):
        assert await done is soon
    deadlines.close()


async def test_a_call_that_ends_leaves_nothing_behind() -> None:
    """Neither here nor for its callback."""
    now, expire = Now(), Mock()
    deadlines = Deadlines(expire, now)
    ended, cancelled, pending = (add(deadlines, 1) for _ in range(3))
    ended.end(Response(200))
    cancelled.cancel()
    assert deadlines.pending() == [pending]
    now.s += 2
    deadlines.expire()
    expire.assert_called_once_with(pending)
    assert deadlines.pending() == []


async def test_a_call_that_ends_while_others_expire_does_not() -> None:
    """The expiry of one call may cancel another one of the same tick."""
    now, expired = Now(), list[Call]()
    calls: list[Call] = []

    def expire(call: Call) -> None:
        expired.append(call)
        for other in calls:
            other.cancel()

    deadlines = Deadlines(expire, now)
    calls += [add(deadlines, 1) for _ in range(3)]
    now.s += 2
    deadlines.expire()
    assert len(expired) == 1
