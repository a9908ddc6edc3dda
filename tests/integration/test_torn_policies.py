"""A process that dies while it writes a policy leaves some partitions with the old one: heal finishes it."""

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from httpqueue.relay.relay import Relay
from httpqueue.storage.keys import host_index_keys
from httpqueue.storage.policies import Torn
from httpqueue.storage.queue import Queue
from httpqueue.storage.storage import Storage
from httpqueue.timers.commands import Begun, Refusal, Refused
from httpqueue.timers.policies import ApplicationPolicy, DestinationPolicy
from tests.support.frozen import T0_MS, FrozenTime, begin, claim, new_timer, pass_time, wake_up
from tests.support.keys import PARTITIONS, Everywhere
from tests.support.pointers import Crash

PAUSED = ApplicationPolicy(paused=True)
NOTHING = Torn([], [])
IDS = "abcdefgh"


@pytest.fixture
def relay(frozen_storage: Storage, frozen_queue: Queue) -> Relay:
    """In the test's own time."""
    return Relay(storage=frozen_storage, queue=frozen_queue, horizon_ms=600_000, batch_size=500)


async def copies(redis: Redis, everywhere: Everywhere, name: str) -> set[bytes | None]:
    """What the partitions have of an application's policy."""
    return {await redis.hget(key, name) for key in everywhere.keys("applications")}  # type: ignore[misc] # sync or async


@pytest.mark.skipif(PARTITIONS.count == 1, reason="there are no copies")
@pytest.mark.parametrize("is_paused", [True, False])
async def test_heal_copies_a_policy_whose_writer_died(
    *, is_paused: bool, frozen_storage: Storage, relay: Relay, redis: Redis, everywhere: Everywhere
) -> None:
    """Between partition 0 and the others, whether it begins or ends a pause."""
    policies = frozen_storage.policies
    await policies.update_application("shop", lambda _: ApplicationPolicy(paused=not is_paused))
    await frozen_storage.store.create([new_timer(each) for each in IDS])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policies, "_copy", Crash(policies, "_copy", is_after=False))
        with pytest.raises(Exception, match="died"):
            await policies.update_application("shop", lambda _: ApplicationPolicy(paused=is_paused))
    assert len(await copies(redis, everywhere, "shop")) == 2
    assert await policies.torn() == Torn(["shop"], [])
    with capture_logs() as logs:
        await relay.heal()
    assert len(await copies(redis, everywhere, "shop")) == 1
    assert (await policies.application("shop")).paused is is_paused
    assert await policies.torn() == NOTHING
    assert [entry["applications"] for entry in logs if entry["event"] == "relay.policies"] == [["shop"]]


@pytest.mark.parametrize("policy", [DestinationPolicy(concurrency=1), DestinationPolicy()])
async def test_heal_tells_all_partitions_of_a_host_s_rules(
    policy: DestinationPolicy, frozen_storage: Storage, relay: Relay, everywhere: Everywhere, redis: Redis
) -> None:
    """Its writer died before; whether there are rules now or none any more."""
    policies = frozen_storage.policies
    before = DestinationPolicy() if policy.concurrency else DestinationPolicy(concurrency=1)
    await policies.set_destination("receiver", before)
    await frozen_storage.hosts.set_rules("receiver", policy)
    assert await policies.torn() == Torn([], ["receiver"])
    await relay.heal()
    is_member = bool(policy.concurrency)
    for key in everywhere.keys("limited"):
        assert bool(await redis.sismember(key, "receiver")) is is_member  # type: ignore[misc] # sync or async
    assert bool(await redis.hexists(host_index_keys().rules, "receiver")) is is_member  # type: ignore[misc] # sync or async
    assert await policies.torn() == NOTHING


async def test_heal_releases_a_line_whose_resume_died(
    frozen_storage: Storage, frozen_queue: Queue, relay: Relay, time: FrozenTime, everywhere: Everywhere
) -> None:
    """All of it, not one timer every 10 s."""
    policies, store = frozen_storage.policies, frozen_storage.store
    await store.create([new_timer(each) for each in IDS])
    await policies.update_application("default", lambda _: PAUSED)
    answers = await begin(store, [wake_up(each) for each in IDS])
    assert {each.refusal for each in answers if isinstance(each, Refused)} == {Refusal.PAUSED}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policies, "_release_first", Crash(policies, "_release_first", is_after=False))
        with pytest.raises(Exception, match="died"):
            await policies.update_application("default", lambda _: ApplicationPolicy())
    assert await everywhere.zcard("lines", "default") == len(IDS)
    await relay.drain()
    await claim(frozen_queue)  # what creation had put there
    await pass_time(store, time, 11_000)
    await relay.heal()
    await relay.drain()
    begun = await begin(store, await claim(frozen_queue))
    assert sorted(each.wake_up.name.id for each in begun if isinstance(each, Begun)) == list(IDS)
    assert not await everywhere.exists(("lines", "default"), "probes")
    assert time.now_ms > T0_MS
