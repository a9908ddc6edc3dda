"""The archive's manifest: two commands of Redis, so fakeredis is enough."""

from collections.abc import AsyncIterator

import pytest
from fakeredis import FakeAsyncRedis

from httpqueue.errors import StartError
from httpqueue.storage import keys
from httpqueue.storage.archive import Archive
from httpqueue.storage.partitions import ONE_PARTITION


@pytest.fixture
async def fake() -> AsyncIterator[FakeAsyncRedis]:
    """An empty server that is none."""
    async with FakeAsyncRedis() as redis:
        yield redis


async def test_the_first_one_writes_it_and_the_others_agree(fake: FakeAsyncRedis) -> None:
    """Opening again with the same parameters changes nothing."""
    await Archive(fake, error_rate=1e-3, partitions=ONE_PARTITION).open()
    manifest = await fake.get(keys.ARCHIVE_MANIFEST)
    await Archive(fake, error_rate=1e-3, partitions=ONE_PARTITION).open()
    assert manifest
    assert await fake.get(keys.ARCHIVE_MANIFEST) == manifest


@pytest.mark.parametrize("stored", [b"", b"nonsense", b"[]", b"{}", b'{"error_rate":0.001}'])
async def test_a_damaged_manifest_is_refused(fake: FakeAsyncRedis, stored: bytes) -> None:
    """Nobody may guess which bits stand for which id."""
    await fake.set(keys.ARCHIVE_MANIFEST, stored)
    with pytest.raises(StartError, match="setting `archive_error_rate`"):
        await Archive(fake, error_rate=1e-3, partitions=ONE_PARTITION).open()
