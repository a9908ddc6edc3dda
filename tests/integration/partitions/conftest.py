"""Stores with some partitions, whatever the other tests run with."""

from typing import Final

import pytest
from redis.asyncio import Redis

from httpqueue.storage.partitions import Partitions
from httpqueue.storage.storage import Storage
from httpqueue.storage.timers import Store
from tests.support.frozen import FrozenTime
from tests.support.keys import SECRETS, Everywhere

COUNTS: Final = (1, 2, 4, 7)


@pytest.fixture(params=COUNTS)
def partitions(request: pytest.FixtureRequest) -> Partitions:
    """As many as the test asks for, or each of COUNTS."""
    return Partitions(request.param)


@pytest.fixture
async def storage(redis: Redis, time: FrozenTime, partitions: Partitions) -> Storage:
    """All that is kept on the empty server, in the test's own time."""
    return Storage(redis, archive_error_rate=1e-6, partitions=partitions, secrets=SECRETS, now=time)


@pytest.fixture
async def store(storage: Storage) -> Store:
    """The store on the empty server, in the test's own time."""
    return storage.store


@pytest.fixture
async def everywhere(redis: Redis, partitions: Partitions) -> Everywhere:
    """Looks into all partitions."""
    return Everywhere(redis, partitions)
