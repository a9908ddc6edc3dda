"""Lines: who waits for a paused application or host, for a host's concurrency, or for the worker's room."""

from dataclasses import replace

import msgspec
import pytest
from redis.asyncio import Redis

from httpqueue.api.schema.field_checks import check_host, check_url
from httpqueue.errors import UnavailableError
from httpqueue.relay.relay import GRACE_MS, Relay
from httpqueue.storage.policies import Policies
from httpqueue.storage.queue import Queue
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Begun, Change, IfExists, Refusal, Refused
from httpqueue.timers.names import TimerName
from httpqueue.timers.policies import DestinationPolicy
from httpqueue.timers.timer import State
from httpqueue.webhooks.outcome import Outcome
from tests.support import frozen
from tests.support.frozen import (
    HOUR_MS,
    LEASE_MS,
    FrozenTime,
    begin_one,
    finish_of,
    lose_leases,
    new_timer,
    pass_time,
    storage_of,
    wake_up,
)
from tests.support.keys import STORE
from tests.support.lines import HOST, begin, begun, create, no_line_is_left, refusals, waiting, woken


@pytest.fixture
def policies(redis: Redis) -> Policies:
    """Of frozen_store."""
    return Policies(redis)


async def pause(policies: Policies, application: str, *, paused: bool = True) -> None:
    """Pause an application, or let it go on."""
    await policies.update_application(
        application, lambda policy: msgspec.structs.replace(policy, paused=paused)
    )


# --- pause ---


async def test_a_paused_application_waits(redis: Redis, frozen_store: Store, policies: Policies) -> None:
    """No attempt is counted; others begin; when it goes on everybody is woken in due order and begins."""
    await create(frozen_store, "abc")
    await frozen_store.create([replace(new_timer("x"), name=TimerName("shop", "x"))])
    await woken(frozen_store)
    await pause(policies, "default")
    assert set(refusals(await begin(frozen_store, "cab")).values()) == {Refusal.PAUSED}
    other = await frozen.begin(frozen_store, [replace(wake_up("x"), name=TimerName("shop", "x"))])
    assert isinstance(other[0], Begun)
    assert await waiting(redis) == ["a", "b", "c"]
    await pause(policies, "default", paused=False)
    assert await woken(frozen_store) == ["a", "b", "c"]
    assert [each.attempt for each in begun(await begin(frozen_store, "abc"))] == [1, 1, 1]
    assert await no_line_is_left(redis)


async def test_a_resume_that_failed_can_be_repeated(
    frozen_store: Store, policies: Policies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store knew that the application goes on, but its timers were not woken yet."""

    async def away(*_: object) -> None:
        raise UnavailableError("the store is away")

    await create(frozen_store, "ab")
    await woken(frozen_store)
    await pause(policies, "default")
    await begin(frozen_store, "ab")
    with monkeypatch.context() as broken:
        broken.setattr(policies, "_release", away)
        with pytest.raises(UnavailableError):
            await pause(policies, "default", paused=False)
    assert await woken(frozen_store) == []
    await pause(policies, "default", paused=False)
    assert await woken(frozen_store) == ["a", "b"]


async def test_a_paused_destination_waits(redis: Redis, frozen_store: Store, policies: Policies) -> None:
    """Other hosts are called meanwhile, whatever the port or the spelling of the paused one."""
    await create(frozen_store, "ab")
    urls = {"c": "https://RECEIVER:8443/x", "d": "http://receiver.example/", "e": "http://[::1]:80/"}
    for name, url in urls.items():
        timer = new_timer(name)
        await frozen_store.create([replace(timer, spec=msgspec.structs.replace(timer.spec, url=url))])
    await woken(frozen_store)
    for host in (HOST, "[::1]"):
        await policies.set_destination(host, DestinationPolicy(paused=True))
    answers = await begin(frozen_store, "abcde")
    assert refusals(answers) == dict.fromkeys("abce", Refusal.PAUSED) | {"d": None}
    assert (await policies.destination(HOST)).waiting == 3
    await policies.set_destination(HOST, DestinationPolicy())
    assert await woken(frozen_store) == ["a", "b", "c"]
    assert len(begun(await begin(frozen_store, "abce"))) == 3
    assert await waiting(redis) == ["e"]


@pytest.mark.parametrize("spelling", ["bücher.example", "BU\u0308CHER.example.", "XN--BCHER-KVA。Example"])
async def test_a_pause_holds_a_host_however_it_is_spelled(
    redis: Redis, frozen_store: Store, policies: Policies, spelling: str
) -> None:
    """The timers' URLs as well as the name by which it is paused, also after a change; all of them go on."""
    urls = {
        "a": "http://bücher.example/",
        "b": "https://BÜCHER.EXAMPLE.:8443/x",
        "c": "http://xn--bcher-kva.example/",
        "d": "http://\uff42ücher。example",
        "e": "http://bucher.example/",
    }
    for number, (name, url) in enumerate(urls.items()):
        timer = new_timer(name, number - len(urls) + 1)
        await frozen_store.create(
            [replace(timer, spec=msgspec.structs.replace(timer.spec, url=check_url(url)))]
        )
    await create(frozen_store, "f")
    other = msgspec.structs.replace(new_timer("f").spec, url="http://Bücher.example/f")
    await frozen_store.change([Change(TimerName("default", "f"), frozenset({State.SCHEDULED}), spec=other)])
    await woken(frozen_store)
    host = check_host(spelling)
    await policies.set_destination(host, DestinationPolicy(paused=True))
    answers = await begin(frozen_store, "abcde")
    assert refusals(answers) == dict.fromkeys("abcd", Refusal.PAUSED) | {"e": None}
    assert await frozen.begin(frozen_store, [wake_up("f", 1)]) == [Refused(wake_up("f", 1), Refusal.PAUSED)]
    assert (await policies.destination(host)).waiting == 5
    await policies.set_destination(host, DestinationPolicy())
    assert await woken(frozen_store) == ["a", "b", "c", "d", "f"]
    assert len(begun(await begin(frozen_store, "abcd"))) == 4
    await begin_one(frozen_store, "f", 1)
    assert await no_line_is_left(redis)


async def test_a_long_line_is_released_as_a_whole(frozen_store: Store, policies: Policies) -> None:
    """Whatever one script call takes out."""
    names = [f"t{number:04}" for number in range(1_234)]
    await create(frozen_store, names)
    await woken(frozen_store)
    await pause(policies, "default")
    await begin(frozen_store, names)
    await pause(policies, "default", paused=False)
    assert await woken(frozen_store) == names


async def test_who_began_in_spite_of_a_crash_between_resume_and_release_has_left_its_line(
    redis: Redis, frozen_store: Store, policies: Policies
) -> None:
    """The policy was written, nobody was released: heal's wake-up begins, and nothing is left behind."""
    await create(frozen_store, "a")
    await pause(policies, "default")
    await begin(frozen_store, "a")
    await redis.delete(STORE.applications)
    assert begun(await begin(frozen_store, "a"))
    assert await no_line_is_left(redis)


async def test_heal_tells_those_that_wait_apart(
    frozen_store: Store, frozen_queue: Queue, policies: Policies, time: FrozenTime
) -> None:
    """The first of each line gets a wake-up, too, but nothing was lost."""
    await create(frozen_store, "abd")
    await policies.set_destination(HOST, DestinationPolicy(concurrency=1))
    await begin(frozen_store, "abd")
    await frozen_store.create([new_timer("c")])
    await woken(frozen_store)
    relay = Relay(storage=storage_of(frozen_store), queue=frozen_queue, horizon_ms=HOUR_MS, batch_size=9)
    assert await relay.promote() == 1
    assert [each.name.id for each in (await frozen_queue.claim(9)).wake_ups] == ["c"]  # and is lost
    time.advance(GRACE_MS - 1)
    assert await relay.heal() == 0
    time.advance(1)
    assert await relay.heal() == 1
    assert await woken(frozen_store) == ["b"]
    assert [each.name.id for each in (await frozen_queue.claim(9)).wake_ups] == ["c"]


@pytest.mark.parametrize("leave", ["cancel", "change"])
async def test_a_timer_leaves_its_line(
    redis: Redis, frozen_store: Store, policies: Policies, leave: str
) -> None:
    """When it is cancelled, or replaced by one to another host."""
    await create(frozen_store, "ab")
    await policies.set_destination(HOST, DestinationPolicy(paused=True))
    await begin(frozen_store, "ab")
    if leave == "cancel":
        await frozen_store.cancel(TimerName("default", "a"), version=None, retention_ms=HOUR_MS)
    else:
        timer = new_timer("a")
        other = replace(timer, spec=msgspec.structs.replace(timer.spec, url="http://other/"))
        await frozen_store.create([replace(other, if_exists=IfExists.REPLACE)])
    assert await waiting(redis) == ["b"]
    assert (await policies.destination(HOST)).waiting == 1


# --- concurrency ---


async def test_no_more_calls_at_once_than_the_host_takes(
    redis: Redis, frozen_store: Store, policies: Policies
) -> None:
    """A call that ends takes the next one in line, in due order; each timer is called once."""
    names = "abcdefg"
    await policies.set_destination(HOST, DestinationPolicy(concurrency=3))
    await create(frozen_store, names)
    await woken(frozen_store)
    running = begun(await begin(frozen_store, names))
    order = [each.wake_up.name.id for each in running]
    assert order == ["a", "b", "c"]
    assert await waiting(redis) == ["d", "e", "f", "g"]
    while running:
        assert len(running) <= 3
        assert (await policies.destination(HOST)).calls == len(running)
        await frozen_store.finish([finish_of(running.pop(0), Outcome.DELIVERED)])
        told = await woken(frozen_store)
        assert len(told) == (1 if len(order) < len(names) else 0)
        running += begun(await begin(frozen_store, told)) if told else []
        order += told
    assert "".join(order) == names
    assert await no_line_is_left(redis)


async def test_a_retry_frees_the_call(frozen_store: Store, policies: Policies) -> None:
    """While it backs off another one is called."""
    await policies.set_destination(HOST, DestinationPolicy(concurrency=1))
    await create(frozen_store, "ab")
    await woken(frozen_store)
    [first] = begun(await begin(frozen_store, "ab"))
    await frozen_store.finish([finish_of(first, Outcome.RETRY, HOUR_MS)])
    assert await woken(frozen_store) == ["a", "b"]
    assert len(begun(await begin(frozen_store, "b"))) == 1


async def test_a_call_whose_worker_died_is_free_when_its_lease_ends(
    frozen_store: Store, policies: Policies, time: FrozenTime
) -> None:
    """Neither the host's line nor the timer itself stands still."""
    await policies.set_destination(HOST, DestinationPolicy(concurrency=1))
    await create(frozen_store, "ab")
    await begin(frozen_store, "ab")
    await woken(frozen_store)
    wake_ups = storage_of(frozen_store).wake_ups
    await pass_time(frozen_store, time, LEASE_MS - 1)
    assert refusals(await begin(frozen_store, "ba")) == {"b": Refusal.WAITING, "a": Refusal.RUNNING}
    time.advance(2)
    assert [each.name.id for each in await wake_ups.heal(late_ms=0, limit=9)] == ["a"]
    assert await woken(frozen_store) == ["b"]
    answers = await begin(frozen_store, "ba")
    assert refusals(answers) == {"b": None, "a": Refusal.WAITING}
    await frozen_store.finish([finish_of(each, Outcome.DELIVERED) for each in begun(answers)])
    assert await woken(frozen_store) == []
    assert [each.name.id for each in await wake_ups.heal(late_ms=0, limit=9)] == [
        "a"
    ]  # its record says that it runs
    again = await begin_one(frozen_store, "a")
    assert (again.attempt, again.lost) == (1, 1)


async def test_a_worker_that_comes_back_leaves_nothing_behind(
    redis: Redis, frozen_store: Store, policies: Policies, time: FrozenTime
) -> None:
    """Its lease had run out, its timer already waited again; its answer still counts."""
    await create(frozen_store, "a")
    [late] = begun(await begin(frozen_store, "a"))
    await lose_leases(frozen_store, time)
    await policies.set_destination(HOST, DestinationPolicy(paused=True))
    assert refusals(await begin(frozen_store, "a")) == {"a": Refusal.PAUSED}
    assert (await frozen_store.finish([finish_of(late, Outcome.DELIVERED)])).counted == [True]
    assert await no_line_is_left(redis)


async def test_another_limit_lets_as_many_begin(frozen_store: Store, policies: Policies) -> None:
    """Everybody who waits tries again, and who is still too many waits on."""
    await policies.set_destination(HOST, DestinationPolicy(concurrency=1))
    await create(frozen_store, "abcd")
    await begin(frozen_store, "abcd")
    await woken(frozen_store)
    await policies.set_destination(HOST, DestinationPolicy(concurrency=3))
    assert await woken(frozen_store) == ["b", "c", "d"]
    assert refusals(await begin(frozen_store, "bcd")) == {"b": None, "c": None, "d": Refusal.WAITING}


# --- the worker's room ---


async def test_a_host_gets_no_more_than_the_worker_has_room_for(redis: Redis, frozen_store: Store) -> None:
    """Others are not concerned; the calls that end take the next ones in line."""
    await create(frozen_store, "abcd")
    timer = new_timer("x")
    await frozen_store.create([replace(timer, spec=msgspec.structs.replace(timer.spec, url="http://other/"))])
    await woken(frozen_store)
    answers = await begin(frozen_store, "abcdx", receiver=2)
    assert refusals(answers) == {"a": None, "b": None, "c": Refusal.WAITING, "d": Refusal.WAITING, "x": None}
    assert all(answer.until_ms == 0 for answer in answers.values() if isinstance(answer, Refused))
    await frozen_store.finish([finish_of(each, Outcome.DELIVERED) for each in begun(answers)])
    assert await woken(frozen_store) == ["c", "d"]
    assert len(begun(await begin(frozen_store, "cd", receiver=2))) == 2
    assert await no_line_is_left(redis)
