"""What operators see of hosts: health, counts, lists."""

import pytest
from redis.asyncio import Redis

from httpqueue.storage.hosts import FORGET_HOST_MS, Calls, Destination, Health, Hosts
from httpqueue.timers.policies import DestinationPolicy
from tests.support.frozen import T0_MS, FrozenTime
from tests.support.hosts import HOST, INDEX, KEYS, serve


async def test_health_is_what_the_last_calls_gave(hosts: Hosts, time: FrozenTime) -> None:
    """Failures in a row across notes; a delivery ends them."""
    seen = []
    for calls in (
        Calls(delivered=False, failures=2, result="HTTP 503"),
        Calls(delivered=False, failures=1, result="timeout"),
        Calls(delivered=True, failures=1, result="HTTP 500"),
        Calls(delivered=True, failures=0, result="200"),
    ):
        time.advance(1)
        await hosts.note_calls({HOST: calls})
        seen.append((await hosts.destination(HOST)).health)
    assert seen == [
        Health(2, T0_MS + 1, "HTTP 503"),
        Health(3, T0_MS + 2, "timeout"),
        Health(1, T0_MS + 3, "HTTP 500"),
        Health(0, T0_MS + 4, "200"),
    ]


async def test_a_host_is_listed_for_7_days_after_its_last_call(
    redis: Redis, hosts: Hosts, time: FrozenTime
) -> None:
    """Its health goes by itself."""
    delivered = Calls(delivered=True, failures=0, result="200")
    await hosts.note_calls({"one": delivered, "two": delivered})
    time.advance(FORGET_HOST_MS)
    await hosts.note_calls({"two": delivered})
    assert [each.host for each in await hosts.destinations()] == ["two"]
    assert 0 < await redis.pttl("hq:{host:one}:health") <= FORGET_HOST_MS
    await hosts.note_calls({})
    assert await redis.zcard(INDEX.called) == 1


async def test_the_health_of_so_many_hosts_is_kept(
    redis: Redis, hosts: Hosts, time: FrozenTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defect 6: whoever invents hosts (as by a wildcard of the DNS) does not fill the server."""
    monkeypatch.setattr("httpqueue.storage.hosts.MAX_CALLED", 3)
    delivered = Calls(delivered=True, failures=0, result="200")
    for number in range(10):
        time.advance(1)
        await hosts.note_calls({f"h{number}": delivered, "often": delivered})
    assert [each.host for each in await hosts.destinations()] == ["h8", "h9", "often"]
    assert sorted(await redis.keys("hq:{host:*}:health")) == [
        b"hq:{host:%b}:health" % host for host in (b"h8", b"h9", b"often")
    ]


async def test_destinations(hosts: Hosts) -> None:
    """Those that were called or have rules, by name; calls count while the concurrency is limited."""
    await hosts.set_rules(HOST, DestinationPolicy(concurrency=2))
    await serve(hosts, "abcde")
    await hosts.set_rules("paused", DestinationPolicy(paused=True))
    await hosts.note_calls({"called": Calls(delivered=False, failures=1, result="timeout")})
    called = Destination("called", DestinationPolicy(), 0, 0, Health(1, T0_MS, "timeout"))
    limited = Destination(HOST, DestinationPolicy(concurrency=2), 3, 2, None)
    assert await hosts.destinations() == [
        called,
        Destination("paused", DestinationPolicy(paused=True), 0, 0, None),
        limited,
    ]
    assert await hosts.destination("called") == called
    assert await hosts.destination(HOST) == limited
    assert await hosts.destination("unknown") == Destination("unknown", DestinationPolicy(), 0, 0, None)
    await hosts.set_rules(HOST, DestinationPolicy())
    assert await hosts.destination(HOST) == Destination(HOST, DestinationPolicy(), 3, 0, None)


async def test_health_that_nobody_can_read(redis: Redis, hosts: Hosts) -> None:
    """Half of it is missing: it is no health."""
    await redis.hset(KEYS.health, "result", "200")  # type: ignore[misc] # redis-py: sync or async
    assert (await hosts.destination(HOST)).health is None
