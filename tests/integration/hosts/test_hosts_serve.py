"""A host's own slot: its line, its permits and its rate; on one server and on a cluster."""

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from httpqueue.clock import now_ms
from httpqueue.errors import UnavailableError
from httpqueue.storage.hosts import Calls, Hosts, Serve
from httpqueue.timers.policies import DestinationPolicy
from tests.support.frozen import LEASE_MS, T0_MS, FrozenTime, closed_port
from tests.support.hosts import (
    HOST,
    KEYS,
    PLENTY,
    due,
    granted,
    is_indexed,
    line,
    names,
    permits,
    serve,
    starts,
)

# --- permits ---


async def test_without_rules_who_asks_gets_a_permit_and_nobody_gets_it_twice(
    redis: Redis, hosts: Hosts
) -> None:
    """A second worker that asks for the same waits until its permit is given back: perhaps a quick retry."""
    assert granted(await serve(hosts, "ab")) == "ab"
    again = await serve(hosts, "bc")
    assert granted(again) == "c"
    assert starts(again) == {"b": None}
    assert await permits(redis) == "abc"
    assert await line(redis) == "b"
    assert await is_indexed(redis)
    assert granted(await serve(hosts, ended="b")) == "b"
    assert await line(redis) == ""


async def test_the_earliest_get_the_permits_whoever_asked(redis: Redis, hosts: Hosts) -> None:
    """As many as the worker can start. The others wait, and a later call gets them in their order."""
    first = await serve(hosts, "dbec", want=1)
    assert granted(first) == "b"
    assert starts(first) == {"d": None, "e": None, "c": None}
    assert first.waiting == 3
    assert await is_indexed(redis)
    other = await serve(hosts, "ag", want=2)
    assert granted(other) == "ac"
    assert starts(other) == {"g": None}
    assert granted(await serve(hosts)) == "deg"


async def test_granted_wake_ups_are_as_they_were_asked_for(hosts: Hosts) -> None:
    """Those of others have no due time: `begin` knows it."""
    [one] = await hosts.serve([Serve(HOST, asking=[due("a"), due("b")], want=1, lease_ms=LEASE_MS)])
    assert one.granted == [due("a")]
    [other] = await hosts.serve([Serve(HOST, want=1, lease_ms=LEASE_MS)])
    assert [(each.name, each.generation) for each in other.granted] == [(due("b").name, 0)]


async def test_several_hosts_in_one_call(hosts: Hosts) -> None:
    """Each has its own line; the answers are in the order of the requests."""
    requests = [
        Serve(host, asking=[due("a"), due("b")], want=want, lease_ms=LEASE_MS)
        for host, want in (("one", 0), ("two", 2), ("kafka/three", 1))
    ]
    answers = await hosts.serve(requests)
    assert [(each.host, granted(each), each.waiting) for each in answers] == [
        ("one", "", 2),
        ("two", "ab", 0),
        ("kafka/three", "a", 1),
    ]


async def test_concurrency(redis: Redis, hosts: Hosts) -> None:
    """So many permits and no more; one that is given back goes to the first of the line."""
    await hosts.set_rules(HOST, DestinationPolicy(concurrency=2))
    assert granted(await serve(hosts, "abcd")) == "ab"
    other = await serve(hosts, "e")
    assert granted(other) == ""
    assert starts(other) == {"e": None}
    assert granted(await serve(hosts, ended="a")) == "c"
    assert await permits(redis) == "bc"
    assert granted(await serve(hosts, ended="bc")) == "de"


async def test_a_lower_concurrency_waits_until_enough_have_ended(redis: Redis, hosts: Hosts) -> None:
    """Permits that exist are not taken away."""
    assert granted(await serve(hosts, "abc")) == "abc"
    await hosts.set_rules(HOST, DestinationPolicy(concurrency=1))
    assert await hosts.release(HOST) == []
    assert granted(await serve(hosts, "d", ended="ab")) == ""
    assert granted(await serve(hosts, ended="c")) == "d"
    assert await permits(redis) == "d"


async def test_what_ended_leaves_the_line_and_may_ask_again(redis: Redis, hosts: Hosts) -> None:
    """Its permit may have expired before its worker came back. A retry asks in the same call."""
    await serve(hosts, "abc", want=0)
    await serve(hosts, ended="b", want=0)
    assert await line(redis) == "ac"
    assert granted(await serve(hosts, "a", ended="a", want=1)) == "a"


async def test_an_expired_permit_goes_to_the_first_in_line(
    redis: Redis, hosts: Hosts, time: FrozenTime
) -> None:
    """Not before the lease has ended; then the lost one comes first, whatever its due time."""
    await hosts.set_rules(HOST, DestinationPolicy(concurrency=1))
    await serve(hosts, "z")
    await serve(hosts, "ab")
    time.advance(LEASE_MS - 1)
    assert granted(await serve(hosts)) == ""
    time.advance(1)
    assert granted(await serve(hosts, want=0)) == ""
    assert await line(redis) == "zab"
    assert granted(await serve(hosts, "z")) == "z"  # asking moves it to no later place


async def test_what_ended_is_not_put_back_when_its_lease_is_over(
    redis: Redis, hosts: Hosts, time: FrozenTime
) -> None:
    """Its worker came back with the end."""
    await serve(hosts, "ab")
    time.advance(LEASE_MS)
    assert granted(await serve(hosts, ended="a")) == "b"
    assert await permits(redis) == "b"


async def test_renew(redis: Redis, hosts: Hosts, time: FrozenTime) -> None:
    """A beaten permit stays; one that was given back or has returned to the line is not made again."""
    await serve(hosts, "abc")
    time.advance(LEASE_MS - 1)
    await serve(hosts, ended="b", want=0)
    await hosts.renew({HOST: [due("a"), due("b")], "other": [due("a")]}, LEASE_MS)
    time.advance(1)
    await serve(hosts, want=0)
    await hosts.renew({HOST: [due("c")]}, LEASE_MS)
    assert await permits(redis) == "a"
    assert await line(redis) == "c"


async def test_who_leaves_the_line_gets_no_permit(hosts: Hosts) -> None:
    """Its timer was cancelled."""
    await serve(hosts, "abc", want=0)
    await hosts.leave(HOST, [due("a"), due("c")])
    assert granted(await serve(hosts)) == "b"


# --- pause ---


async def test_a_pause(hosts: Hosts) -> None:
    """Nobody gets a permit or a start, whatever else the rules say; when it ends, all are served."""
    await hosts.set_rules(HOST, DestinationPolicy(paused=True, rate=1))
    served = await serve(hosts, "ab")
    assert (granted(served), starts(served)) == ("", {"a": None, "b": None})
    assert await hosts.release(HOST) == []
    await hosts.set_rules(HOST, DestinationPolicy())
    assert names(await hosts.release(HOST)) == "ab"
    assert granted(await serve(hosts)) == "ab"


# --- rate ---


@pytest.mark.parametrize(
    ("rate", "slots"), [(10, [0, 100, 200, 300]), (3, [0, 334, 667, 1_000]), (0.5, [0, 2_000])]
)
async def test_starts_are_a_rate_apart(hosts: Hosts, time: FrozenTime, rate: float, slots: list[int]) -> None:
    """Each is told when it may start, and starts exactly then, and not before."""
    letters = "abcd"[: len(slots)]
    await hosts.set_rules(HOST, DestinationPolicy(rate=rate))
    first = await serve(hosts, letters)
    assert granted(first) == "a"
    assert starts(first) == dict(zip(letters[1:], slots[1:], strict=True))
    for letter, slot in list(zip(letters, slots, strict=True))[1:]:
        time.now_ms = T0_MS + slot - 1
        early = await serve(hosts, letter)
        assert (granted(early), starts(early)) == ("", {letter: slot})
        time.advance(1)
        assert granted(await serve(hosts, letter)) == letter


async def test_the_first_of_the_line_starts_whoever_asks(hosts: Hosts, time: FrozenTime) -> None:
    """The wake-up of the last one fires first. The first one then needs no wake-up any more."""
    await hosts.set_rules(HOST, DestinationPolicy(rate=1))
    await serve(hosts, "abcd")
    time.advance(1_000)
    served = await serve(hosts, "d")
    assert granted(served) == "b"
    assert starts(served) == {"d": 3_000, "c": 2_000}


@pytest.mark.parametrize("late_ms", [999, 1_000, 1_001, 10_000, 3_600_000])
async def test_late_workers_keep_the_order_and_always_start_somebody(
    hosts: Hosts, time: FrozenTime, late_ms: int
) -> None:
    """However late every wake-up is served, and whichever is served."""
    await hosts.set_rules(HOST, DestinationPolicy(rate=2))
    letters = "abcdefghij"
    order = granted(await serve(hosts, letters))
    for _ in range(len(letters)):
        if len(order) == len(letters):
            break
        time.advance(500 + late_ms)
        served = await serve(hosts, letters[-1], ended=order)
        assert 1 <= len(served.granted) <= 3  # what a second and the start of now hold
        order += granted(served)
    assert order == letters


async def test_late_workers_catch_up_with_one_second_and_no_more(hosts: Hosts, time: FrozenTime) -> None:
    """Those of the last second and the one of now start at once, the others are a rate apart again."""
    await hosts.set_rules(HOST, DestinationPolicy(rate=2))
    await serve(hosts, "abcdefgh")
    time.advance(60_000)
    served = await serve(hosts, "hgfedcb", ended="a")
    assert granted(served) == "bcd"
    assert {name: start and start - 60_000 for name, start in starts(served).items()} == {
        "h": 2_000,
        "g": 1_500,
        "f": 1_000,
        "e": 500,
    }


async def test_an_empty_line_has_nothing_to_catch_up_with(hosts: Hosts, time: FrozenTime) -> None:
    """After a silence calls are a rate apart from the first one on."""
    await hosts.set_rules(HOST, DestinationPolicy(rate=2))
    await serve(hosts, "a")
    time.advance(60_000)
    served = await serve(hosts, "bcd", ended="a")
    assert granted(served) == "b"
    assert starts(served) == {"c": 60_500, "d": 61_000}


async def test_a_little_lateness_does_not_slow_the_rate(hosts: Hosts, time: FrozenTime) -> None:
    """A start counts from where it should have been."""
    await hosts.set_rules(HOST, DestinationPolicy(rate=10))
    assert granted(await serve(hosts, "abc")) == "a"
    time.advance(130)
    served = await serve(hosts, "b")
    assert (granted(served), starts(served)) == ("b", {"c": 200})


async def test_under_a_rate_the_line_always_has_a_wake_up(hosts: Hosts, time: FrozenTime) -> None:
    """When a permit gets free before the next start, the worker is told when the first one may start."""
    await hosts.set_rules(HOST, DestinationPolicy(rate=1, concurrency=1))
    first = await serve(hosts, "abc")
    assert (granted(first), starts(first)) == ("a", {"b": None, "c": None})
    time.advance(100)
    served = await serve(hosts, ended="a")
    assert (granted(served), starts(served)) == ("", {"b": 1_000})
    time.advance(900)
    assert granted(await serve(hosts, "b")) == "b"


async def test_a_worker_without_room_is_told_no_start(hosts: Hosts) -> None:
    """The host could be called now: it is the worker that has to come back."""
    await hosts.set_rules(HOST, DestinationPolicy(rate=1))
    assert starts(await serve(hosts, "ab", want=0)) == {"a": None, "b": None}
    served = await serve(hosts, "b", want=1)
    assert (granted(served), starts(served)) == ("a", {"b": 1_000})


async def test_another_rate_counts_from_the_last_start(hosts: Hosts, time: FrozenTime) -> None:
    """Faster or slower: the next start is the new distance away, and there is nothing to catch up with."""
    await hosts.set_rules(HOST, DestinationPolicy(rate=0.001))
    assert starts(await serve(hosts, "abcd")) == {"b": 1_000_000, "c": 2_000_000, "d": 3_000_000}
    await hosts.set_rules(HOST, DestinationPolicy(rate=100))
    assert names(await hosts.release(HOST)) == "b"
    served = await serve(hosts, "b")
    assert (granted(served), starts(served)) == ("", {"b": 10})
    time.advance(5_000)
    await hosts.set_rules(HOST, DestinationPolicy(rate=1))
    served = await serve(hosts, "b")
    assert (granted(served), starts(served)) == ("b", {"c": 6_000})


async def test_after_a_pause_there_is_nothing_to_catch_up_with(hosts: Hosts, time: FrozenTime) -> None:
    """A host that comes back is called no faster than before."""
    await hosts.set_rules(HOST, DestinationPolicy(rate=10))
    await serve(hosts, "abc")
    await hosts.set_rules(HOST, DestinationPolicy(rate=10, paused=True))
    time.advance(60_000)
    await hosts.set_rules(HOST, DestinationPolicy(rate=10))
    served = await serve(hosts, ended="a")
    assert (granted(served), starts(served)) == ("b", {"c": 60_100})


async def test_a_clock_that_goes_back_holds_nobody_up(hosts: Hosts, time: FrozenTime) -> None:
    """For longer than one distance: another server has become the master."""
    await hosts.set_rules(HOST, DestinationPolicy(rate=1))
    await serve(hosts, "ab")
    time.advance(-60_000)
    assert starts(await serve(hosts, "b")) == {"b": -59_000}
    time.advance(1_000)
    assert granted(await serve(hosts, "b")) == "b"


# --- explain ---


async def test_facts(redis: Redis, hosts: Hosts, time: FrozenTime) -> None:
    """The policy that is obeyed, and the place and start of a wake-up; reading changes nothing."""
    policy = DestinationPolicy(rate=1, concurrency=2)
    await hosts.set_rules(HOST, policy)
    await serve(hosts, "abc")
    facts = [await hosts.facts(HOST, due(letter)) for letter in "abcd"]
    assert {each.policy for each in facts} == {policy}
    assert [each.is_in_line for each in facts] == [False, True, True, False]
    assert [each.start_ms for each in facts] == [0, T0_MS + 1_000, T0_MS + 2_000, 0]
    time.advance(1_000)
    assert (await hosts.facts(HOST, due("b"))).start_ms == 0  # as soon as somebody serves it
    assert granted(await serve(hosts)) == "b"
    assert (await hosts.facts(HOST, due("c"))).start_ms == 0  # it waits for a permit
    assert (await hosts.facts("other", due("c"))).policy == DestinationPolicy()
    assert await redis.exists("hq:{host:other}:rules") == 0


# --- the server ---


async def test_by_default_the_time_is_the_servers(redis: Redis) -> None:
    """No process's clock decides."""
    hosts = Hosts(redis)
    before_ms = now_ms()
    await hosts.set_rules(HOST, DestinationPolicy(rate=0.001))
    served = await serve(hosts, "ab")
    [(_, start_ms)] = served.refused
    assert granted(served) == "a"
    assert before_ms <= start_ms - 1_000_000 <= now_ms() + 1
    assert await hosts.probe(await hosts.due_probes(10)) == {}


async def test_a_server_that_forgets_scripts(redis: Redis, hosts: Hosts) -> None:
    """They are sent again; each host is served once."""
    await serve(hosts, "a")
    await redis.script_flush()
    requests = [Serve(host, asking=[due("b")], want=1, lease_ms=LEASE_MS) for host in ("one", "two")]
    assert [granted(each) for each in await hosts.serve(requests)] == ["b", "b"]


async def test_a_script_that_fails(redis: Redis, hosts: Hosts) -> None:
    """The call fails. What other hosts granted expires."""
    await redis.set(KEYS.line, "no line")
    with pytest.raises(UnavailableError, match="WRONGTYPE"):
        await serve(hosts, "a")


async def test_on_a_full_server_calls_end_and_start(redis: Redis, hosts: Hosts, time: FrozenTime) -> None:
    """Permits are granted, renewed, given back and brought back; lines are probed and left."""
    await hosts.set_rules(HOST, DestinationPolicy(rate=100))
    await serve(hosts, "abcd", want=1)
    time.advance(10)
    before = (await redis.config_get("maxmemory"))["maxmemory"]
    await redis.config_set("maxmemory", "1")
    try:
        with pytest.raises(UnavailableError, match="maxmemory"):
            await hosts.note_calls({HOST: Calls(delivered=True, failures=0, result="200")})
        assert granted(await serve(hosts, "d", ended="a")) == "b"
        assert await hosts.probe([HOST]) == {}
        await hosts.renew({HOST: [due("b")]}, 2 * LEASE_MS)
        await hosts.leave(HOST, [due("c")])
        time.advance(10)
        assert granted(await serve(hosts)) == "d"
        time.advance(LEASE_MS)
        assert names(await hosts.release(HOST)) == "d"
    finally:
        await redis.config_set("maxmemory", before)
    assert await permits(redis) == "b"


async def test_what_nobody_can_read_is_dropped(redis: Redis, hosts: Hosts) -> None:
    """It would come first for ever, and keep a permit."""
    await hosts.set_rules(HOST, DestinationPolicy(concurrency=1))
    await redis.zadd(KEYS.line, {b"\xff": 1, b"no wake-up": 2})
    await serve(hosts, "a", want=0)
    with capture_logs() as logs:
        assert granted(await serve(hosts)) == ""
        assert await hosts.release(HOST) == []
        assert granted(await serve(hosts)) == "a"
    assert [entry["event"] for entry in logs] == ["hosts.unreadable"] * 2
    assert await line(redis) == ""


@pytest.mark.parametrize("rules", [b"{", b"[]", b"null", b"7"])
async def test_rules_that_nobody_can_read_limit_nothing(redis: Redis, hosts: Hosts, rules: bytes) -> None:
    """As decode_policy says."""
    await redis.set(KEYS.rules, rules)
    assert granted(await serve(hosts, "ab")) == "ab"


async def test_a_server_that_is_away() -> None:
    """Every method says so."""
    with closed_port() as port:
        redis = Redis(port=port)
        hosts = Hosts(redis)
        calls = [
            hosts.serve([Serve(HOST)]),
            hosts.renew({HOST: [due("a")]}, LEASE_MS),
            hosts.leave(HOST, [due("a")]),
            hosts.are_waiting(HOST, [due("a")]),
            hosts.facts(HOST, due("a")),
            hosts.due_probes(1),
            hosts.probe([HOST]),
            hosts.release(HOST),
            hosts.rules(),
            hosts.set_rules(HOST, DestinationPolicy()),
            hosts.destinations(),
            hosts.destination(HOST),
        ]
        for call in calls:
            with pytest.raises(UnavailableError):
                await call
        await redis.aclose()


async def test_nothing_stays_of_a_host_that_has_nothing(redis: Redis, hosts: Hosts) -> None:
    """No rules, nobody in line, no permit: only marks that expire."""
    await hosts.set_rules(HOST, DestinationPolicy(rate=1))
    await serve(hosts, "ab", want=PLENTY)
    await serve(hosts, ended="ab")
    await hosts.set_rules(HOST, DestinationPolicy())
    await hosts.probe([HOST])
    for key in await redis.keys():
        assert await redis.pttl(key) > 0


async def test_rules_that_change_without_a_call_hold_nobody_up(hosts: Hosts) -> None:
    """The distance counts from a call, not from a change."""
    for rate in (20, 0.001):
        await hosts.set_rules(HOST, DestinationPolicy(rate=rate))
    assert granted(await serve(hosts, "ab")) == "a"
