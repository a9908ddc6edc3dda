"""The hosts in a test's own time: on one server and on a cluster."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from httpqueue.storage.embedded import EmbeddedValkey
from httpqueue.storage.hosts import Hosts
from tests.support.frozen import FrozenTime


@pytest.fixture(params=["one server", "cluster"])
async def redis(request: pytest.FixtureRequest, valkey_server: EmbeddedValkey) -> AsyncIterator[Redis]:
    """An empty server of each kind."""
    is_cluster = request.param == "cluster"
    client = Redis.from_url(request.getfixturevalue("cluster_url") if is_cluster else valkey_server.url)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture
def hosts(redis: Redis, time: FrozenTime) -> Hosts:
    """In the test's own time."""
    return Hosts(redis, now=time)
