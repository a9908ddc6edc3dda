"""A host's rate: starts, one after the other; and what is said and known of hosts and applications."""

import pytest
from redis.asyncio import Redis

from httpqueue.storage.hosts import PROBE_MS
from httpqueue.timers.policies import ApplicationPolicy, DestinationPolicy
from httpqueue.webhooks.outcome import Outcome
from tests.support.frozen import T0_MS, claim
from tests.support.keys import SECRETS
from tests.support.lines import HOST, Answers, Stage, create, no_line_is_left, waiting, woken


def starts(answers: Answers) -> dict[str, int]:
    """When those that wait may start, in ms after T0_MS."""
    return {name: start_ms - T0_MS for name, start_ms in answers.waits.items()}


async def woken_by_queue(stage: Stage) -> Answers:
    """A worker claims what is due, and begins it."""
    return await stage.other.begin(await claim(stage.queue))


# --- rate ---


@pytest.mark.parametrize(
    ("rate", "slots"), [(10, [0, 100, 200, 300]), (3, [0, 334, 667, 1_000]), (0.5, [0, 2_000])]
)
async def test_starts_are_a_rate_apart(redis: Redis, stage: Stage, rate: float, slots: list[int]) -> None:
    """1000/rate ms. The queue wakes each timer when it was told to come back; then it begins, not before."""
    names = "abcd"[: len(slots)]
    await stage.policies.set_destination(HOST, DestinationPolicy(rate=rate))
    await create(stage.store, names)
    first = await stage.player.begin(names)
    assert list(first.begun) == ["a"]
    assert starts(first) == dict(zip(names[1:], slots[1:], strict=True))
    assert await waiting(redis) == list(names[1:])
    for name, slot in list(zip(names, slots, strict=True))[1:]:
        stage.time.now_ms = T0_MS + slot - 1
        assert await stage.claimed() == []
        assert starts(await stage.other.begin(name)) == {name: slot}
        stage.time.advance(1)
        assert list((await woken_by_queue(stage)).begun) == [name]
    assert await waiting(redis) == []


async def test_a_timer_keeps_its_start(stage: Stage) -> None:
    """However often it is woken, and though others came later."""
    await stage.policies.set_destination(HOST, DestinationPolicy(rate=1))
    await create(stage.store, "abc")
    first = await stage.player.begin("abc")
    again = await stage.other.begin("cb")
    assert again.waits == first.waits
    stage.time.advance(1_000)
    answers = await stage.other.begin("cb")
    assert list(answers.begun) == ["b"]
    assert starts(answers) == {"c": 2_000}


async def test_who_is_woken_too_early_lets_the_first_one_begin(stage: Stage) -> None:
    """Whoever asks: it is its turn."""
    await stage.policies.set_destination(HOST, DestinationPolicy(rate=1))
    await create(stage.store, "abc")
    await stage.player.begin("abc")
    stage.time.advance(1_000)
    answers = await stage.other.begin("c")
    assert list(answers.begun) == ["b"]
    assert starts(answers) == {"c": 2_000}


async def test_missed_starts_keep_the_order_and_are_not_taken_all_at_once(stage: Stage) -> None:
    """After the workers were away: those of the last second, and then no faster than before."""
    await stage.policies.set_destination(HOST, DestinationPolicy(rate=2))
    await create(stage.store, "abcdefgh")
    await stage.player.finish((await stage.player.begin("abcdefgh")).begun)
    await stage.player.serve()
    stage.time.advance(60_000)
    answers = await stage.other.begin("hgfedcb")
    assert list(answers.begun) == ["b", "c", "d"]
    assert starts(answers) == {"e": 60_500, "f": 61_000, "g": 61_500, "h": 62_000}


@pytest.mark.parametrize("late_ms", [0, 1, 999, 1_001, 60_000])
async def test_workers_that_are_always_late_begin_all_in_order(
    redis: Redis, stage: Stage, late_ms: int
) -> None:
    """Whatever the queue wakes then, somebody begins, and wake-ups do not run dry."""
    names = "abcdefghijklmno"
    await stage.policies.set_destination(HOST, DestinationPolicy(rate=2))
    await create(stage.store, names)
    begun = (await stage.other.begin(reversed(names))).begun
    order = list(begun)
    await stage.other.finish(begun)
    for _ in range(len(names) - 1):
        if len(order) == len(names):
            break
        await stage.pass_time(500 + late_ms)
        begun = (await woken_by_queue(stage)).begun
        assert begun
        order += begun
        await stage.other.finish(begun)
    assert order == list(names)
    assert await waiting(redis) == []


async def test_two_workers_that_are_woken_for_the_same_begin_all_in_order(stage: Stage) -> None:
    """Both come late, and neither is given what the other one has."""
    names = "abcdefgh"
    await stage.policies.set_destination(HOST, DestinationPolicy(rate=1))
    await create(stage.store, names)
    order = list((await stage.player.begin(names)).begun)
    while len(order) < len(names):
        stage.time.advance(1_000)
        wake_ups = await claim(stage.queue)
        stage.time.advance(700)
        for player in (stage.player, stage.other):
            order += (await player.begin(wake_ups)).begun
    assert order == list(names)


async def test_a_faster_rate_counts_from_the_last_start(redis: Redis, stage: Stage) -> None:
    """In due order; the first one is woken, and who serves it, sees to those behind it."""
    await stage.policies.set_destination(HOST, DestinationPolicy(rate=0.001))
    await create(stage.store, "abc")
    await stage.player.begin("abc")
    await woken(stage.store)
    await stage.policies.set_destination(HOST, DestinationPolicy(rate=100))
    told = await woken(stage.store)
    assert told == ["b"]
    assert starts(await stage.other.begin(told)) == {"b": 10}
    order: list[str] = []
    for _ in range(2):
        stage.time.advance(10)
        order += (await woken_by_queue(stage)).begun
    assert order == ["b", "c"]
    assert await waiting(redis) == []


async def test_without_a_rate_who_had_a_start_begins(redis: Redis, stage: Stage) -> None:
    """At once, and no start is left."""
    await stage.policies.set_destination(HOST, DestinationPolicy(rate=0.001))
    await create(stage.store, "abc")
    first = await stage.player.begin("abc")
    await woken(stage.store)
    await stage.policies.set_destination(HOST, DestinationPolicy())
    assert await woken(stage.store) == ["b", "c"]
    answers = await stage.player.begin("bc")
    assert list(answers.begun) == ["b", "c"]
    await stage.player.finish(first.begun | answers.begun)
    await stage.player.serve()
    assert await no_line_is_left(redis)


async def test_rate_and_concurrency_both_hold(stage: Stage) -> None:
    """A start that came while all calls were taken is kept: who waits begins as soon as one has ended."""
    await stage.policies.set_destination(HOST, DestinationPolicy(rate=1, concurrency=1))
    await create(stage.store, "abcd")
    first = await stage.player.begin("ab")
    assert (list(first.begun), first.waits) == (["a"], {"b": 0})
    stage.time.advance(15_000)
    assert (await stage.other.begin("cdb")).waits == {"b": 0, "c": 0, "d": 0}
    await stage.player.finish(first.begun)
    second = await stage.player.serve()
    assert list(second.begun) == ["b"]
    await stage.player.finish(second.begun)
    third = await stage.player.serve()
    assert list(third.begun) == ["c"]  # what was missed in the last second
    await stage.player.finish(third.begun)
    assert starts(await stage.player.serve()) == {"d": 16_000}
    stage.time.advance(1_000)
    assert list((await woken_by_queue(stage)).begun) == ["d"]


# --- health and policies ---


async def test_health_is_what_the_last_calls_gave(stage: Stage) -> None:
    """Failures in a row, whoever tells of them; a delivery ends them."""
    await create(stage.store, "abcd")
    begun = (await stage.player.begin("abcd")).begun
    seen = []
    for outcome, name in zip(
        (Outcome.FAILED, Outcome.RETRY, Outcome.DELIVERED, Outcome.FAILED), "abcd", strict=True
    ):
        await stage.player.finish({name: begun[name]}, outcome)
        await stage.player.permits.tell_health()
        [host] = await stage.policies.destinations()
        assert host.health is not None
        seen.append((host.health.failures, host.health.last_result, host.health.last_ms))
    assert seen == [(1, "HTTP 404", T0_MS), (2, "HTTP 503", T0_MS), (0, "200", T0_MS), (1, "HTTP 404", T0_MS)]


async def test_health_of_calls_that_are_told_together(stage: Stage) -> None:
    """Only those after the last delivery count; nothing is told twice."""
    await create(stage.store, "abcdef")
    begun = (await stage.player.begin("abcdef")).begun
    for outcome, names in (
        (Outcome.FAILED, "ab"),
        (Outcome.DELIVERED, "c"),
        (Outcome.RETRY, "de"),
    ):
        await stage.player.finish({name: begun[name] for name in names}, outcome)
    for _ in range(2):
        await stage.player.permits.tell_health()
        health = (await stage.policies.destination(HOST)).health
        assert health is not None
        assert (health.failures, health.last_result) == (2, "HTTP 503")
    await stage.player.finish({"f": begun["f"]}, Outcome.FAILED)
    await stage.player.permits.tell_health()
    health = (await stage.policies.destination(HOST)).health
    assert health is not None
    assert health.failures == 3


async def test_what_was_said_is_kept_until_it_is_taken_back(redis: Redis, stage: Stage) -> None:
    """Policies are read as they were written; the default ones take no room but a note that expires."""
    policies = stage.policies
    policy = DestinationPolicy(paused=True, rate=0.5, concurrency=7)
    await policies.set_destination(HOST, policy)
    assert (await policies.destination(HOST)).policy == policy
    await policies.update_application("shop", lambda _: ApplicationPolicy(paused=True, secrets=("whsec_a",)))
    assert [each.name for each in await policies.applications()] == ["shop"]
    [secret] = (await policies.application("shop")).secrets
    assert SECRETS.open("shop", secret) == "whsec_a"
    await policies.set_destination(HOST, DestinationPolicy())
    await policies.update_application("shop", lambda _: ApplicationPolicy())
    stage.time.advance(PROBE_MS)
    await stage.hosts.probe(await stage.hosts.due_probes(9))
    left = await redis.keys()
    assert [await redis.ttl(key) > 0 for key in left] == [True] * len(left)
    assert left == [b"hq:{host:receiver}:pace"]
