"""The archive remembers every finished id, and takes hardly any other for one."""

from collections.abc import Iterator
from math import exp

import orjson
import pytest
from redis.asyncio import Redis

from httpqueue.errors import StartError
from httpqueue.storage import archive, keys
from httpqueue.storage.archive import Archive, layer
from httpqueue.storage.storage import Storage
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Begun
from httpqueue.timers.names import TimerName
from httpqueue.webhooks.outcome import Outcome
from tests.support.frozen import begin, finish_of, forget, new_timer, wake_up
from tests.support.keys import PARTITIONS, here

ERROR_RATES = [0.4, 1e-2, 1e-6, 1e-12]


@pytest.fixture
def small_layers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A first layer of 100 ids, a second one of 400, a third one of 1,600."""
    layer.cache_clear()
    monkeypatch.setattr(archive, "FIRST_CAPACITY", 100)
    yield
    layer.cache_clear()


def timer_id(number: int) -> str:
    """The ids of a test are in one partition: each partition has layers of its own."""
    return here(f"t{number}")


def member(number: int) -> str:
    """A timer's name in the archive."""
    return f"default:{timer_id(number)}"


def archive_of(redis: Redis, error_rate: float) -> Archive:
    """As a process has it."""
    return Archive(redis, error_rate=error_rate, partitions=PARTITIONS)


def store_of(redis: Redis, error_rate: float = 1e-6) -> Store:
    """As a process has it."""
    return Storage(redis, archive_error_rate=error_rate, partitions=PARTITIONS).store


async def finish(store: Store, first: int, last: int, *, batch_size: int = 100) -> None:
    """Store these timers, deliver them and forget them."""
    for start in range(first, last, batch_size):
        numbers = range(start, min(start + batch_size, last))
        await store.create([new_timer(timer_id(number)) for number in numbers])
        begun = await begin(store, [wake_up(timer_id(number)) for number in numbers])
        ends = [finish_of(each, Outcome.DELIVERED, 0) for each in begun if isinstance(each, Begun)]
        assert (await store.finish(ends)).counted == [True] * len(numbers)
        assert await forget(store) == len(numbers)


async def counts(redis: Redis) -> dict[int, int]:
    """Ids in each layer."""
    found = await redis.hgetall(PARTITIONS.store_keys[0].archive_counts)  # type: ignore[misc] # redis-py: sync or async
    return {int(number): int(count) for number, count in found.items()}


# --- layers ---


@pytest.mark.parametrize("error_rate", ERROR_RATES)
def test_a_layer_has_one_position_in_each_slice(error_rate: float) -> None:
    """All of them different, and within the bits that Redis can address."""
    each = layer(1, error_rate)
    positions = each.positions("default:a")
    assert positions == each.positions("default:a") != each.positions("default:b")
    assert [position // each.slice_bits for position in positions] == list(range(len(positions)))


@pytest.mark.parametrize("error_rate", ERROR_RATES)
def test_the_layers_together_keep_the_error_rate(error_rate: float) -> None:
    """Computed from slices and fill of full layers, by the Bloom filter's own formula."""
    shares = []
    for number in range(5):
        each = layer(number, error_rate)
        fill = 1 - exp(-each.capacity / each.slice_bits)
        shares.append(fill ** len(each.positions("default:a")))
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) < error_rate


def test_layers_grow_fourfold() -> None:
    """From 100,000 ids."""
    capacities = [layer(number, 1e-6).capacity for number in range(4)]
    assert capacities == [100_000, 400_000, 1_600_000, 6_400_000]


@pytest.mark.parametrize("error_rate", [1e-6, 1e-12])
def test_no_layer_outgrows_redis(error_rate: float) -> None:
    """Redis addresses 2 ** 32 bits of a string; the first layer that would be larger is not."""
    full = layer(6, error_rate)
    bits = full.slice_bits * len(full.positions("default:a"))
    assert 0.9 * 2**32 < bits < 2**32


# --- one archive ---


async def test_an_unknown_id_is_not_in_it(redis: Redis) -> None:
    """Nor in one that nobody wrote to."""
    for partition in PARTITIONS.all:
        assert not await archive_of(redis, 1e-6).contains(partition, "default:a")


async def test_every_finished_id_is_found_in_whatever_layer(small_layers: None, redis: Redis) -> None:
    """2,000 ids fill three layers: each is found, and each is counted once."""
    del small_layers
    store = store_of(redis)
    await finish(store, 0, 2_000)
    assert await counts(redis) == {0: 100, 1: 400, 2: 1_500}
    for number in range(2_000):
        assert await store.is_archived(TimerName("default", timer_id(number)))


async def test_false_positives_stay_below_the_error_rate(small_layers: None, redis: Redis) -> None:
    """Measured on two full layers and a third one (the hashes are fixed, so is the figure)."""
    del small_layers
    filter_ = archive_of(redis, 1e-2)
    await finish(store_of(redis, 1e-2), 0, 1_500, batch_size=10)
    assert set(await counts(redis)) == {0, 1, 2}
    unknown = [member(number) for number in range(10_000, 15_000)]
    wrong = sum([await filter_.contains(0, name) for name in unknown])
    assert 0 < wrong < 1e-2 * len(unknown)


async def test_an_id_that_finishes_again_is_counted_once(redis: Redis, store: Store) -> None:
    """Its name was free again after the retention."""
    await finish(store, 0, 3)
    await finish(store, 0, 4)
    assert await counts(redis) == {0: 4}


async def test_another_process_sees_the_layers_that_one_opened(small_layers: None, redis: Redis) -> None:
    """When it looks an id up, when it starts, and when it archives the next id itself."""
    del small_layers
    reader, writer = archive_of(redis, 1e-6), store_of(redis)
    await finish(store_of(redis), 0, 150, batch_size=50)
    assert await reader.contains(0, member(149))
    assert reader.current(0).number == 1

    await finish(writer, 150, 250, batch_size=50)
    # it did not ask before its first batch; the answer told it
    assert await counts(redis) == {0: 150, 1: 100}
    assert await reader.contains(0, member(150))
    assert await reader.contains(0, member(249))

    starter = archive_of(redis, 1e-6)
    await starter.open()
    assert starter.current(0).number == 1


async def test_a_full_last_layer_hands_over_at_start(small_layers: None, redis: Redis) -> None:
    """The next layer has no key yet."""
    del small_layers
    await finish(store_of(redis), 0, 100)
    starter = archive_of(redis, 1e-6)
    await starter.open()
    assert starter.current(0).number == 1


# --- the manifest ---


async def test_the_same_parameters_open_it_again(redis: Redis) -> None:
    """The manifest is written once."""
    await archive_of(redis, 1e-4).open()
    manifest = await redis.get(keys.ARCHIVE_MANIFEST)
    await archive_of(redis, 1e-4).open()
    assert await redis.get(keys.ARCHIVE_MANIFEST) == manifest


async def test_another_error_rate_is_refused(redis: Redis) -> None:
    """The message names the setting and the value that would do."""
    await archive_of(redis, 1e-4).open()
    with pytest.raises(StartError, match=r"setting `archive_error_rate`.*\(error rate 0\.0001\)"):
        await archive_of(redis, 1e-5).open()


async def test_other_hashes_are_refused(redis: Redis) -> None:
    """As another version of pybloom-live might make them."""
    await archive_of(redis, 1e-4).open()
    manifest = orjson.loads(await redis.get(keys.ARCHIVE_MANIFEST))
    manifest["golden"][0] += 1
    await redis.set(keys.ARCHIVE_MANIFEST, orjson.dumps(manifest))
    with pytest.raises(StartError, match="other parameters"):
        await archive_of(redis, 1e-4).open()


@pytest.mark.parametrize("manifest", ["?", "[]", "{}"])
async def test_a_damaged_manifest_is_refused(redis: Redis, manifest: str) -> None:
    """And said to be unreadable."""
    await redis.set(keys.ARCHIVE_MANIFEST, manifest)
    with pytest.raises(StartError, match="unreadable"):
        await archive_of(redis, 1e-4).open()
