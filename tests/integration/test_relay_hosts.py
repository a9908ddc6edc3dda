"""What a relay does for hosts whose lines nobody serves."""

import pytest

from httpqueue.relay.relay import Relay
from httpqueue.storage.hosts import PROBE_MS, Hosts
from httpqueue.storage.queue import Queue
from httpqueue.storage.storage import Storage
from tests.support.frozen import HOUR_MS, FrozenTime, claim
from tests.support.hosts import serve
from tests.support.lines import create


@pytest.fixture
def hosts(frozen_storage: Storage) -> Hosts:
    """Of frozen_storage."""
    return frozen_storage.hosts


@pytest.fixture
def relay(frozen_storage: Storage, frozen_queue: Queue) -> Relay:
    """Of frozen_storage."""
    return Relay(storage=frozen_storage, queue=frozen_queue, horizon_ms=HOUR_MS, batch_size=9)


async def claimed(queue: Queue) -> list[str]:
    """Whose wake-ups are due in the queue, in alphabetical order; they are taken out."""
    return sorted(each.name.id for each in await claim(queue))


async def test_a_line_that_nobody_serves_is_woken(
    frozen_storage: Storage, frozen_queue: Queue, hosts: Hosts, relay: Relay, time: FrozenTime
) -> None:
    """After 10 s, and again every 10 s."""
    await create(frozen_storage.store, "ab")
    await serve(hosts, "ab", want=0)
    time.advance(PROBE_MS - 1)
    await relay.heal()
    assert await claimed(frozen_queue) == []
    for ms in (1, PROBE_MS):
        time.advance(ms)
        assert await relay.heal() == 2
        assert await claimed(frozen_queue) == ["a", "b"]
