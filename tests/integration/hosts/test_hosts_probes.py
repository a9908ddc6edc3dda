"""Lines that nobody serves any more, and what a death at every step leaves behind."""

from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis

from httpqueue.errors import UnavailableError
from httpqueue.storage.hosts import PROBE_MS, RELEASE, Hosts, Serve
from httpqueue.timers.commands import WakeUp
from httpqueue.timers.policies import DestinationPolicy
from tests.support.frozen import LEASE_MS, T0_MS, FrozenTime
from tests.support.hosts import HOST, INDEX, due, granted, is_indexed, line, names, of_all, serve, starts


async def probe(hosts: Hosts) -> str:
    """Whom a relay's pass wakes."""
    return names(of_all(await hosts.probe(await hosts.due_probes(100))))


async def test_a_line_that_nobody_serves_for_10_s_is_woken(hosts: Hosts, time: FrozenTime) -> None:
    """Not a moment earlier, and again every 10 s."""
    await serve(hosts, "abc", want=1)
    time.advance(PROBE_MS - 1)
    assert await hosts.due_probes(100) == []
    time.advance(1)
    assert await probe(hosts) == "bc"
    assert await probe(hosts) == ""
    time.advance(PROBE_MS)
    assert await probe(hosts) == "abc"  # the lease of a has ended


async def test_a_probe_that_comes_early_wakes_nobody(hosts: Hosts, time: FrozenTime) -> None:
    """Such as the one after a change of rules."""
    await serve(hosts, "abc", want=1)
    time.advance(PROBE_MS - 1)
    assert names(of_all(await hosts.probe([HOST]))) == ""
    time.advance(1)
    assert names(of_all(await hosts.probe([HOST]))) == "bc"


async def test_a_line_that_is_served_is_left_alone(hosts: Hosts, time: FrozenTime) -> None:
    """By anybody who started somebody, or could not."""
    await hosts.set_rules(HOST, DestinationPolicy(concurrency=1))
    await serve(hosts, "abc")
    for ended in "ab":
        time.advance(PROBE_MS - 1)
        await serve(hosts, ended=ended)
        time.advance(1)
        assert await probe(hosts) == ""


async def test_a_worker_without_room_does_not_serve(hosts: Hosts, time: FrozenTime) -> None:
    """All its calls may hang; another worker has to be woken."""
    await serve(hosts, "a", want=0)
    time.advance(PROBE_MS - 1)
    await serve(hosts, "b", want=0)
    time.advance(1)
    assert await probe(hosts) == "ab"


async def test_as_many_are_woken_as_could_start(hosts: Hosts, time: FrozenTime) -> None:
    """By the concurrency; one under a rate, who tells of the next one; none in a pause; 500 at once."""
    await serve(hosts, "abcdefg", want=2)
    expected = {
        DestinationPolicy(concurrency=4): "cd",
        DestinationPolicy(concurrency=2): "",
        DestinationPolicy(concurrency=1): "",
        DestinationPolicy(rate=100): "c",
        DestinationPolicy(rate=100, concurrency=2): "",
        DestinationPolicy(paused=True): "",
        DestinationPolicy(): "cdefg",
    }
    for policy, woken in expected.items():
        await hosts.set_rules(HOST, policy)
        assert names(await hosts.release(HOST)) == woken
        time.advance(1)
    time.advance(PROBE_MS)
    for policy, woken in expected.items():
        await hosts.set_rules(HOST, policy)
        assert names(of_all(await hosts.probe([HOST]))) == ("" if policy.rate else woken)
    many = [due(f"m{n}") for n in range(RELEASE + 1)]
    await hosts.serve([Serve("other", asking=many)])
    assert len(await hosts.release("other")) == RELEASE


async def test_under_a_rate_a_lost_wake_up_is_missed_10_s_after_its_start(
    hosts: Hosts, time: FrozenTime
) -> None:
    """Until then it is in the queue."""
    await hosts.set_rules(HOST, DestinationPolicy(rate=0.01))
    assert starts(await serve(hosts, "abc")) == {"b": 100_000, "c": 200_000}
    await serve(hosts, ended="a")
    time.now_ms = T0_MS + 100_000 + PROBE_MS - 1
    assert await probe(hosts) == ""
    assert names(of_all(await hosts.probe([HOST]))) == ""
    time.advance(1)
    assert names(of_all(await hosts.probe([HOST]))) == "b"


async def test_a_lost_worker_wedges_no_line(redis: Redis, hosts: Hosts, time: FrozenTime) -> None:
    """All permits were its own; who waits was told to wait. The lost ones come first, in any order."""
    await hosts.set_rules(HOST, DestinationPolicy(concurrency=2))
    await serve(hosts, "ab")
    await serve(hosts, "cd")
    time.advance(LEASE_MS - 1)
    assert await probe(hosts) == ""
    time.advance(1)
    assert {*names(of_all(await hosts.probe([HOST])))} == {*"ab"}
    assert (await line(redis)).endswith("cd")
    assert {*granted(await serve(hosts, "a"))} == {*"ab"}
    assert granted(await serve(hosts, ended="ab")) == "cd"


async def test_a_lost_permit_is_found_though_there_is_no_line(
    redis: Redis, hosts: Hosts, time: FrozenTime
) -> None:
    """Nobody may ever ask for this host again."""
    await hosts.set_rules(HOST, DestinationPolicy(concurrency=1))
    await hosts.probe(await hosts.due_probes(100))
    assert granted(await serve(hosts, "a")) == "a"
    time.advance(LEASE_MS)
    assert await probe(hosts) == "a"
    assert await line(redis) == "a"


async def test_a_host_leaves_the_index_when_it_has_no_line_and_no_permit(
    redis: Redis, hosts: Hosts, time: FrozenTime
) -> None:
    """Not before."""
    await serve(hosts, "ab", want=1)
    await serve(hosts)
    time.advance(PROBE_MS)
    assert await probe(hosts) == ""
    assert await is_indexed(redis)
    await serve(hosts, ended="ab")
    time.advance(PROBE_MS)
    assert await probe(hosts) == ""
    assert not await is_indexed(redis)


@pytest.mark.parametrize("step", ["before it looks", "after it looked", "after it removed"])
async def test_a_join_while_the_host_is_removed_is_not_lost(
    redis: Redis, hosts: Hosts, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Even if the worker that joined dies before it adds the host to the index."""
    await redis.zadd(INDEX.lines, {HOST: 0})
    look_at, looks = hosts._look_at, 0

    async def join() -> None:
        with monkeypatch.context() as dying:
            dying.setattr(hosts, "_note_lines", _die)
            with pytest.raises(UnavailableError):
                await serve(hosts, "a", want=0)

    async def look(asked: list[str]) -> object:
        nonlocal looks
        looks += 1
        if (step, looks) in {("before it looks", 1), ("after it removed", 2)}:
            await join()
        found = await look_at(asked)
        if (step, looks) == ("after it looked", 1):
            await join()
        return found

    monkeypatch.setattr(hosts, "_look_at", look)
    await hosts.probe([HOST])
    assert await line(redis) == "a"
    assert await is_indexed(redis)


async def test_who_waits_is_asked_for_and_the_host_is_found_again(
    redis: Redis, hosts: Hosts, time: FrozenTime
) -> None:
    """In line, or with a permit that has not expired: the host of an expired one may not be looked at."""
    await serve(hosts, "abc", want=1)
    assert await hosts.are_waiting(HOST, [due("c"), due("a"), due("d"), due("b")]) == [
        True,
        True,
        False,
        True,
    ]
    await redis.delete(INDEX.lines)
    time.advance(LEASE_MS)
    assert await hosts.are_waiting(HOST, [due("a")]) == [False]
    assert not await is_indexed(redis)
    assert await hosts.are_waiting(HOST, [due("b")]) == [True]
    assert await hosts.due_probes(100) == [HOST]


async def test_at_most_so_many_probes(hosts: Hosts, time: FrozenTime) -> None:
    """The longest due first."""
    for host in "abc":
        await hosts.serve([Serve(host, asking=[due("a")])])
        time.advance(1)
    time.advance(PROBE_MS)
    assert await hosts.due_probes(2) == ["a", "b"]
    assert await hosts.probe([]) == {}


async def test_probes_of_several_hosts(hosts: Hosts, time: FrozenTime) -> None:
    """In one call, those with a line and those without."""
    await hosts.serve([Serve(host, asking=[due(host)], want=int(host == "b"), lease_ms=1) for host in "abc"])
    await hosts.serve([Serve("b", ended=[due("b")])])
    time.advance(PROBE_MS)
    assert names(of_all(await hosts.probe(["a", "b", "c"]))) == "ac"


# --- rules ---


async def test_rules(redis: Redis, hosts: Hosts) -> None:
    """All are listed; the host's own are what its line obeys. The default is no rule."""
    policies = {
        "one": DestinationPolicy(rate=2.5),
        "kafka/two": DestinationPolicy(paused=True, concurrency=3),
    }
    for host, policy in policies.items():
        await hosts.set_rules(host, policy)
        assert (await hosts.facts(host, due("a"))).policy == policy
    assert await hosts.rules() == policies
    await hosts.set_rules("one", DestinationPolicy())
    assert list(await hosts.rules()) == ["kafka/two"]
    assert (await hosts.facts("one", due("a"))).policy == DestinationPolicy()
    assert not await redis.exists("hq:{host:one}:rules")


@pytest.mark.parametrize("before", [DestinationPolicy(), DestinationPolicy(rate=5)])
@pytest.mark.parametrize("after", [DestinationPolicy(), DestinationPolicy(concurrency=1)])
async def test_rules_that_are_only_listed_are_mended(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch, before: DestinationPolicy, after: DestinationPolicy
) -> None:
    """Who set them died before the host's slot had them."""
    await hosts.set_rules(HOST, before)
    await hosts.probe(await hosts.due_probes(100))
    with monkeypatch.context() as dying:
        dying.setattr(hosts, "_run_probe", _die)
        with pytest.raises(UnavailableError):
            await hosts.set_rules(HOST, after)
    assert (await hosts.facts(HOST, due("a"))).policy == before
    assert await hosts.due_probes(100) == [HOST]
    await hosts.probe([HOST])
    assert (await hosts.facts(HOST, due("a"))).policy == after
    assert await hosts.due_probes(100) == []


async def test_a_probe_with_older_rules_does_not_win(redis: Redis, hosts: Hosts, time: FrozenTime) -> None:
    """They change after the probe has read them; it looks again, or the next one does."""
    for asking in ([], [due("a")]):
        await hosts.serve([Serve(HOST, asking=asking)])
        policy = DestinationPolicy(rate=7 + len(asking))

        async def change(policy: DestinationPolicy = policy) -> None:
            await hosts.set_rules(HOST, policy)

        await _with_a_change_inside(hosts, change)
        if asking:
            time.advance(PROBE_MS)
            await hosts.probe(await hosts.due_probes(100))
        assert (await hosts.facts(HOST, due("a"))).policy == policy
    assert await line(redis) == "a"


async def _with_a_change_inside(hosts: Hosts, change: Callable[[], Awaitable[None]]) -> None:
    """A probe during which, once, something happens between its reading of the list and its script."""
    run_probe = hosts._run_probe
    pending = [change]

    async def run(asked: list[str], **options: object) -> object:
        if pending:
            await pending.pop()()
        return await run_probe(asked, **options)  # type: ignore[arg-type]

    hosts._run_probe = run  # type: ignore[method-assign, assignment]
    await hosts.probe([HOST])
    hosts._run_probe = run_probe  # type: ignore[method-assign]


async def _die(*_: object, **__: object) -> list[WakeUp]:
    raise UnavailableError("died")
