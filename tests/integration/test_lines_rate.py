"""A host's rate: slots, one after the other; and what is said and known of hosts and applications."""

import pytest
from redis.asyncio import Redis

from httpqueue.storage.policies import Policies
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Refusal, Refused
from httpqueue.timers.policies import ApplicationPolicy, DestinationPolicy
from httpqueue.webhooks.outcome import Outcome
from tests.support.frozen import T0_MS, FrozenTime, finish_of, wake_up
from tests.support.lines import HOST, begin, begun, create, no_line_is_left, refusals, waits_ms, woken


@pytest.fixture
def policies(redis: Redis) -> Policies:
    """Of frozen_store."""
    return Policies(redis)


# --- rate ---


@pytest.mark.parametrize(
    ("rate", "slots"), [(10, [0, 100, 200, 300]), (3, [0, 334, 667, 1_000]), (0.5, [0, 2_000])]
)
async def test_slots_are_a_rate_apart(
    frozen_store: Store, policies: Policies, time: FrozenTime, rate: float, slots: list[int]
) -> None:
    """1000/rate ms; each timer begins exactly when it was told to, and not before."""
    names = "abcd"[: len(slots)]
    await policies.set_destination(HOST, DestinationPolicy(rate=rate))
    await create(frozen_store, names)
    answers = await begin(frozen_store, names)
    assert waits_ms(answers, T0_MS) == slots
    for name, slot in list(zip(names, slots, strict=True))[1:]:
        time.now_ms = T0_MS + slot - 1
        assert await begin(frozen_store, name) == {
            name: Refused(wake_up(name), Refusal.WAITING, until_ms=T0_MS + slot)
        }
        time.advance(1)
        assert begun(await begin(frozen_store, name))


async def test_a_timer_keeps_its_slot(frozen_store: Store, policies: Policies, time: FrozenTime) -> None:
    """However often it is woken, and though others came later."""
    await policies.set_destination(HOST, DestinationPolicy(rate=1))
    await create(frozen_store, "abc")
    first = await begin(frozen_store, "abc")
    again = await begin(frozen_store, "cb")
    assert again == {name: first[name] for name in "cb"}
    time.advance(1_000)
    assert refusals(await begin(frozen_store, "cb")) == {"c": Refusal.WAITING, "b": None}


async def test_missed_slots_are_not_taken_all_at_once(
    frozen_store: Store, policies: Policies, time: FrozenTime
) -> None:
    """After the workers were away the host is called no faster than before."""
    await policies.set_destination(HOST, DestinationPolicy(rate=2))
    await create(frozen_store, "abcdefgh")
    await begin(frozen_store, "abcdefgh")
    time.advance(60_000)
    answers = await begin(frozen_store, "bcdefgh")
    told = [
        answer.until_ms - time.now_ms if isinstance(answer, Refused) else 0 for answer in answers.values()
    ]
    assert told == [0, 500, 1_000, 1_500, 2_000, 2_500, 3_000]


async def test_a_faster_rate_gives_new_slots(frozen_store: Store, policies: Policies) -> None:
    """In due order, from now on."""
    await policies.set_destination(HOST, DestinationPolicy(rate=0.001))
    await create(frozen_store, "abc")
    await begin(frozen_store, "abc")
    await woken(frozen_store)
    await policies.set_destination(HOST, DestinationPolicy(rate=100))
    assert await woken(frozen_store) == ["b", "c"]
    answers = await begin(frozen_store, "bc")
    assert answers["c"] == Refused(wake_up("c"), Refusal.WAITING, until_ms=T0_MS + 10)
    assert begun(answers)


async def test_without_a_rate_who_had_a_slot_begins(
    redis: Redis, frozen_store: Store, policies: Policies
) -> None:
    """At once, and no slot is left."""
    await policies.set_destination(HOST, DestinationPolicy(rate=0.001))
    await create(frozen_store, "abc")
    await begin(frozen_store, "abc")
    await policies.set_destination(HOST, DestinationPolicy())
    assert len(begun(await begin(frozen_store, "bc"))) == 2
    assert await no_line_is_left(redis)


async def test_rate_and_concurrency_both_hold(
    frozen_store: Store, policies: Policies, time: FrozenTime
) -> None:
    """A slot that came while all calls were taken is kept: who waits begins as soon as one has ended."""
    await policies.set_destination(HOST, DestinationPolicy(rate=1, concurrency=1))
    await create(frozen_store, "abcd")
    [first] = begun(await begin(frozen_store, "ab"))
    time.advance(15_000)
    assert set(refusals(await begin(frozen_store, "cdb")).values()) == {Refusal.WAITING}
    await frozen_store.finish([finish_of(first, Outcome.DELIVERED)])
    assert refusals(await begin(frozen_store, "dbc")) == {
        "d": Refusal.WAITING,
        "b": None,
        "c": Refusal.WAITING,
    }


# --- health and policies ---


async def test_health_is_what_the_last_calls_gave(frozen_store: Store, policies: Policies) -> None:
    """Failures in a row across calls of finish; a delivery ends them."""
    await create(frozen_store, "abcd")
    running = begun(await begin(frozen_store, "abcd"))
    seen = []
    for outcome, each in zip(
        (Outcome.FAILED, Outcome.RETRY, Outcome.DELIVERED, Outcome.FAILED), running, strict=True
    ):
        await frozen_store.finish([finish_of(each, outcome)])
        [host] = await policies.destinations()
        assert host.health is not None
        seen.append((host.health.failures, host.health.last_result, host.health.last_ms))
    assert seen == [(1, "HTTP 404", T0_MS), (2, "HTTP 503", T0_MS), (0, "200", T0_MS), (1, "HTTP 404", T0_MS)]


async def test_what_was_said_is_kept_until_it_is_taken_back(redis: Redis, policies: Policies) -> None:
    """Policies are read as they were written; the default ones take no room."""
    policy = DestinationPolicy(paused=True, rate=0.5, concurrency=7)
    await policies.set_destination(HOST, policy)
    assert (await policies.destination(HOST)).policy == policy
    await policies.update_application("shop", lambda _: ApplicationPolicy(paused=True, secrets=("whsec_a",)))
    assert [each.name for each in await policies.applications()] == ["shop"]
    assert (await policies.application("shop")).secrets == ("whsec_a",)
    await policies.set_destination(HOST, DestinationPolicy())
    await policies.update_application("shop", lambda _: ApplicationPolicy())
    assert await redis.keys() == []
