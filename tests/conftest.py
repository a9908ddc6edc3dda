"""What all tests share: a real Valkey a test process, empty for each test that asks for it."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from redis.asyncio import Redis

from httpqueue.runtime import outage
from httpqueue.storage.embedded import EmbeddedValkey
from httpqueue.storage.queue import Queue, open_queue
from httpqueue.storage.storage import Storage
from httpqueue.storage.timers import Store
from tests.support.cluster import cluster_node
from tests.support.frozen import FrozenTime
from tests.support.keys import PARTITIONS, SECRETS, Everywhere
from tests.support.lines import Stage

settings.register_profile("untimed", deadline=None)  # a busy machine is slow
settings.load_profile("untimed")


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    url: str


@pytest.fixture(autouse=True)
def no_outage() -> None:
    """What a test before this one left away is no outage of this one."""
    outage._away.clear()
    outage._refused.clear()


@pytest.fixture(scope="session")
def cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server in cluster mode for all tests of this process that ask for it."""
    with cluster_node(tmp_path_factory.mktemp("cluster")) as url:
        yield url


@pytest.fixture(scope="session")
def valkey_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedValkey | Server]:
    """One server for all tests of this process. With several partitions it is in cluster mode."""
    if PARTITIONS.count > 1:
        yield Server(request.getfixturevalue("cluster_url"))
        return
    data_dir: Path = tmp_path_factory.mktemp("valkey")
    with EmbeddedValkey(data_dir, persistent=False) as server:
        yield server


@pytest.fixture(scope="session")
def other_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey | Server]:
    """A second server like the first, for queues apart from the store: a cluster has no databases."""
    data_dir: Path = tmp_path_factory.mktemp("other")
    if PARTITIONS.count > 1:
        with cluster_node(data_dir) as url:
            yield Server(url)
    else:
        with EmbeddedValkey(data_dir, persistent=False) as server:
            yield server


@pytest.fixture
async def redis(valkey_server: EmbeddedValkey) -> AsyncIterator[Redis]:
    """An empty server, and a client to look into it."""
    client = Redis.from_url(valkey_server.url)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture
async def everywhere(redis: Redis) -> Everywhere:
    """Looks into all partitions of the empty server."""
    return Everywhere(redis)


@pytest.fixture
async def storage(redis: Redis) -> Storage:
    """All that is kept on the empty server."""
    return Storage(redis, archive_error_rate=1e-6, partitions=PARTITIONS, secrets=SECRETS)


@pytest.fixture
async def store(storage: Storage) -> Store:
    """The store on the empty server."""
    return storage.store


@pytest.fixture
async def queue(valkey_server: EmbeddedValkey, redis: Redis) -> AsyncIterator[Queue]:
    """A queue on the same server."""
    del redis  # asked for because it empties the server
    async with open_queue(valkey_server.url, partitions=PARTITIONS) as queue:
        yield queue


@pytest.fixture
def time() -> FrozenTime:
    """What frozen_store and frozen_queue take for now."""
    return FrozenTime()


@pytest.fixture
async def frozen_storage(redis: Redis, time: FrozenTime) -> Storage:
    """All that is kept on the empty server, in the test's own time."""
    return Storage(redis, archive_error_rate=1e-6, partitions=PARTITIONS, secrets=SECRETS, now=time)


@pytest.fixture
async def frozen_store(frozen_storage: Storage) -> Store:
    """The store on the empty server, in the test's own time."""
    return frozen_storage.store


@pytest.fixture
async def frozen_queue(queue: Queue, time: FrozenTime) -> Queue:
    """A queue on the same server, in the test's own time."""
    return Queue(queue.redis, partitions=PARTITIONS, now=time)


@pytest.fixture
def stage(frozen_storage: Storage, frozen_queue: Queue, time: FrozenTime) -> Stage:
    """All of these with a relay and workers."""
    return Stage(frozen_storage, frozen_queue, time)
