"""Lines: who waits for a paused application or host, for a host's concurrency, or for the worker's room."""

from dataclasses import replace

import msgspec
import pytest
from redis.asyncio import Redis

from httpqueue.api.schema.field_checks import check_host, check_url
from httpqueue.errors import UnavailableError
from httpqueue.relay.relay import GRACE_MS
from httpqueue.storage.hosts import PROBE_MS, RELEASE
from httpqueue.storage.policies import Policies
from httpqueue.timers.commands import Change, IfExists, NewTimer, Refusal
from httpqueue.timers.names import TimerName
from httpqueue.timers.policies import DestinationPolicy
from httpqueue.timers.timer import State
from httpqueue.webhooks.outcome import Outcome
from httpqueue.worker.slots import Slots
from tests.support.frozen import (
    HOUR_MS,
    LEASE_MS,
    claim,
    heal,
    lose_leases,
    new_timer,
    wake_up,
)
from tests.support.keys import Everywhere
from tests.support.lines import HOST, Stage, create, no_line_is_left, waiting, woken


async def pause(policies: Policies, application: str, *, paused: bool = True) -> None:
    """Pause an application, or let it go on."""
    await policies.update_application(
        application, lambda policy: msgspec.structs.replace(policy, paused=paused)
    )


def timer_to(url: str, name: str, delay_ms: int = 0) -> NewTimer:
    """A timer to this URL."""
    timer = new_timer(name, delay_ms)
    return replace(timer, spec=msgspec.structs.replace(timer.spec, url=url))


# --- pause ---


async def test_a_paused_application_waits(redis: Redis, stage: Stage) -> None:
    """No attempt is counted; others begin; when it goes on everybody is woken in due order and begins."""
    await create(stage.store, "abc")
    await stage.store.create([replace(new_timer("x"), name=TimerName("shop", "x"))])
    await woken(stage.store)
    await pause(stage.policies, "default")
    answers = await stage.player.begin("cab")
    assert answers.refused == dict.fromkeys("abc", Refusal.PAUSED)
    assert list((await stage.player.begin([wake_up("x", application="shop")])).begun) == ["x"]
    assert await waiting(redis) == ["a", "b", "c"]
    await pause(stage.policies, "default", paused=False)
    assert await woken(stage.store) == ["a", "b", "c"]
    assert [each.attempt for each in (await stage.player.begin("abc")).begun.values()] == [1, 1, 1]
    assert await no_line_is_left(redis)


async def test_a_resume_that_failed_can_be_repeated(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store knew that the application goes on, but its timers were not woken yet."""

    async def away(*_: object) -> None:
        raise UnavailableError("the store is away")

    await create(stage.store, "ab")
    await woken(stage.store)
    await pause(stage.policies, "default")
    await stage.player.begin("ab")
    with monkeypatch.context() as broken:
        broken.setattr(stage.policies, "_release", away)
        with pytest.raises(UnavailableError):
            await pause(stage.policies, "default", paused=False)
    assert await woken(stage.store) == []
    await pause(stage.policies, "default", paused=False)
    assert await woken(stage.store) == ["a", "b"]


async def test_a_paused_destination_waits(redis: Redis, stage: Stage) -> None:
    """Other hosts are called meanwhile, whatever the port or the spelling of the paused one."""
    await create(stage.store, "ab")
    urls = {"c": "https://RECEIVER:8443/x", "d": "http://receiver.example/", "e": "http://[::1]:80/"}
    await stage.store.create([timer_to(url, name) for name, url in urls.items()])
    await woken(stage.store)
    for host in (HOST, "[::1]"):
        await stage.policies.set_destination(host, DestinationPolicy(paused=True))
    answers = await stage.player.begin("abcde")
    assert answers.waits == dict.fromkeys("abce", 0)
    assert list(answers.begun) == ["d"]
    assert (await stage.policies.destination(HOST)).waiting == 3
    await stage.policies.set_destination(HOST, DestinationPolicy())
    assert await woken(stage.store) == ["a", "b", "c"]
    answers = await stage.player.begin("abce")
    assert [(name, begun.attempt) for name, begun in answers.begun.items()] == [("a", 1), ("b", 1), ("c", 1)]
    assert await waiting(redis) == ["e"]


@pytest.mark.parametrize("spelling", ["bücher.example", "BU\u0308CHER.example.", "XN--BCHER-KVA。Example"])
async def test_a_pause_holds_a_host_however_it_is_spelled(redis: Redis, stage: Stage, spelling: str) -> None:
    """The timers' URLs as well as the name by which it is paused, also after a change; all of them go on."""
    urls = {
        "a": "http://bücher.example/",
        "b": "https://BÜCHER.EXAMPLE.:8443/x",
        "c": "http://xn--bcher-kva.example/",
        "d": "http://\uff42ücher。example",
        "e": "http://bucher.example/",
    }
    await stage.store.create(
        [
            timer_to(check_url(url), name, number - len(urls) + 1)
            for number, (name, url) in enumerate(urls.items())
        ]
    )
    await create(stage.store, "f")
    other = timer_to("http://Bücher.example/f", "f").spec
    await stage.store.change([Change(TimerName("default", "f"), frozenset({State.SCHEDULED}), spec=other)])
    await woken(stage.store)
    host = check_host(spelling)
    await stage.policies.set_destination(host, DestinationPolicy(paused=True))
    answers = await stage.player.begin([*"abcde", wake_up("f", 1)])
    assert answers.waits == dict.fromkeys("abcdf", 0)
    assert list(answers.begun) == ["e"]
    assert (await stage.policies.destination(host)).waiting == 5
    await stage.policies.set_destination(host, DestinationPolicy())
    assert await woken(stage.store) == ["a", "b", "c", "d", "f"]
    began = {**answers.begun, **(await stage.player.begin([*"abcd", wake_up("f", 1)])).begun}
    assert set(began) == {*"abcdef"}
    await stage.player.finish(began)
    await stage.player.serve()
    assert await no_line_is_left(redis)


async def test_a_long_line_of_an_application_is_released_as_a_whole(stage: Stage) -> None:
    """Whatever one script call takes out."""
    names = [f"t{number:04}" for number in range(1_234)]
    await create(stage.store, names)
    await woken(stage.store)
    await pause(stage.policies, "default")
    await stage.player.begin(names)
    await pause(stage.policies, "default", paused=False)
    assert await woken(stage.store) == names


async def test_a_long_line_of_a_destination_goes_on_as_calls_end(redis: Redis, stage: Stage) -> None:
    """The first ones are woken; who serves them, serves those behind them. Each once, in due order."""
    names = [f"t{number:04}" for number in range(RELEASE * 2 + 234)]
    await create(stage.store, names)
    await woken(stage.store)
    await stage.policies.set_destination(HOST, DestinationPolicy(paused=True))
    await stage.player.begin(names)
    await stage.policies.set_destination(HOST, DestinationPolicy())
    told = await woken(stage.store)
    assert told == names[:RELEASE]
    order: list[str] = []
    answers = await stage.player.begin(told)
    while answers.begun:
        order += answers.begun
        await stage.player.finish(answers.begun)
        answers = await stage.player.serve()
    assert order == names
    assert await no_line_is_left(redis)


async def test_who_began_in_spite_of_a_crash_between_resume_and_release_has_left_its_line(
    redis: Redis, stage: Stage, everywhere: Everywhere
) -> None:
    """The policy was written, nobody was released: heal's wake-up begins, and nothing is left behind."""
    await create(stage.store, "a")
    await pause(stage.policies, "default")
    await stage.player.begin("a")
    await everywhere.delete("applications")
    assert (await stage.player.begin("a")).begun
    assert await no_line_is_left(redis)


async def test_a_crash_between_resume_and_release_of_a_destination(redis: Redis, stage: Stage) -> None:
    """Its rules were written, nobody was released: its line is found."""
    await create(stage.store, "ab")
    await stage.policies.set_destination(HOST, DestinationPolicy(paused=True))
    await stage.player.begin("ab")
    await stage.hosts.set_rules(HOST, DestinationPolicy())
    stage.time.advance(PROBE_MS)
    await stage.relay.heal()
    answers = await stage.player.begin(await claim(stage.queue))
    assert list(answers.begun) == ["a", "b"]
    await stage.player.finish(answers.begun)
    await stage.player.serve()
    assert await no_line_is_left(redis)


async def test_heal_tells_those_that_wait_apart(stage: Stage) -> None:
    """Those who wait for a call to end need no wake-up: who ends it serves them."""
    await create(stage.store, "abd")
    await stage.policies.set_destination(HOST, DestinationPolicy(concurrency=1))
    await stage.player.begin("abd")
    await stage.store.create([new_timer("c")])
    await woken(stage.store)
    assert await stage.relay.promote() == 1
    assert await stage.claimed() == ["c"]  # and is lost
    stage.time.advance(GRACE_MS - 1)
    assert await stage.relay.heal() == 0
    stage.time.advance(1)
    assert await stage.relay.heal() == 1
    assert await woken(stage.store) == []
    assert await stage.claimed() == ["c"]


@pytest.mark.parametrize("leave", ["cancel", "change", "replace"])
async def test_a_timer_leaves_its_line(redis: Redis, stage: Stage, leave: str) -> None:
    """When it is cancelled, or changed into one to another host, or replaced by one."""
    await create(stage.store, "ab")
    await stage.policies.set_destination(HOST, DestinationPolicy(paused=True))
    await stage.player.begin("ab")
    name, other = TimerName("default", "a"), timer_to("http://other/", "a")
    if leave == "cancel":
        await stage.store.cancel(name, version=None, retention_ms=HOUR_MS)
    elif leave == "change":
        await stage.store.change([Change(name, frozenset({State.SCHEDULED}), spec=other.spec)])
    else:
        await stage.store.create([replace(other, if_exists=IfExists.REPLACE)])
    assert await waiting(redis) == ["b"]
    assert (await stage.policies.destination(HOST)).waiting == 1


# --- concurrency ---


async def test_no_more_calls_at_once_than_the_host_takes(redis: Redis, stage: Stage) -> None:
    """A call that ends takes the next one in line, in due order; each timer is called once."""
    names = "abcdefg"
    await stage.policies.set_destination(HOST, DestinationPolicy(concurrency=3))
    await create(stage.store, names)
    await woken(stage.store)
    running = (await stage.player.begin("gfedcba")).begun
    order = list(running)
    assert order == ["a", "b", "c"]
    assert await waiting(redis) == ["d", "e", "f", "g"]
    while running:
        assert len(running) <= 3
        assert (await stage.policies.destination(HOST)).calls == len(running)
        first = next(iter(running))
        await stage.player.finish({first: running.pop(first)})
        following = (await stage.player.serve()).begun
        assert len(following) == (1 if len(order) < len(names) else 0)
        running |= following
        order += following
    assert "".join(order) == names
    assert await woken(stage.store) == []  # the relay had nothing to do with it
    assert await no_line_is_left(redis)


async def test_a_retry_frees_the_call(stage: Stage) -> None:
    """While it backs off another one is called."""
    await stage.policies.set_destination(HOST, DestinationPolicy(concurrency=1))
    await create(stage.store, "ab")
    await woken(stage.store)
    answers = await stage.player.begin("ab")
    assert list(answers.begun) == ["a"]
    await stage.player.finish(answers.begun, Outcome.RETRY, HOUR_MS)
    assert await woken(stage.store) == ["a"]
    assert list((await stage.player.serve()).begun) == ["b"]


async def test_a_call_whose_worker_died_is_free_when_its_lease_ends(redis: Redis, stage: Stage) -> None:
    """Neither the host's line nor the timer itself stands still; and the one that was lost comes first."""
    await stage.policies.set_destination(HOST, DestinationPolicy(concurrency=1))
    await create(stage.store, "ab")
    await stage.player.begin("ab")
    await woken(stage.store)
    await stage.pass_time(LEASE_MS - 1)
    answers = await stage.other.begin("ba")
    assert (answers.begun, answers.waits, answers.refused) == ({}, {"b": 0}, {"a": Refusal.RUNNING})
    stage.time.advance(2)
    assert [each.name.id for each in await heal(stage.store)] == ["a"]
    await stage.pass_time(PROBE_MS)
    await stage.relay.heal()
    assert await stage.claimed() == ["a"]
    answers = await stage.other.begin("ba")
    assert [(name, begun.attempt, begun.lost) for name, begun in answers.begun.items()] == [("a", 1, 1)]
    assert answers.waits == {"b": 0}
    await stage.other.finish(answers.begun)
    answers = await stage.other.serve()
    assert list(answers.begun) == ["b"]
    await stage.other.finish(answers.begun)
    await stage.other.serve()
    assert await no_line_is_left(redis)


async def test_a_worker_that_comes_back_leaves_nothing_behind(redis: Redis, stage: Stage) -> None:
    """Its lease had run out, its timer was woken and asked for a permit again; its answer still counts."""
    await stage.policies.set_destination(HOST, DestinationPolicy(concurrency=1))
    await create(stage.store, "a")
    late = (await stage.player.begin("a")).begun
    await lose_leases(stage.store, stage.time)
    await stage.policies.set_destination(HOST, DestinationPolicy(paused=True))
    assert (await stage.other.begin("a")).waits == {"a": 0}
    assert (await stage.player.finish(late)).counted == [True]
    await stage.player.serve()
    assert await no_line_is_left(redis)


async def test_a_worker_that_comes_back_too_late_ends_nothing(redis: Redis, stage: Stage) -> None:
    """Another one has begun, and the permit is now that one's: no third call starts."""
    await stage.policies.set_destination(HOST, DestinationPolicy(concurrency=1))
    await create(stage.store, "ab")
    late = (await stage.player.begin("ab")).begun
    await lose_leases(stage.store, stage.time)
    again = (await stage.other.begin("a")).begun
    assert [(name, begun.lost) for name, begun in again.items()] == [("a", 1)]
    assert (await stage.player.finish(late)).counted == [False]
    assert (await stage.player.serve()).begun == {}
    assert (await stage.other.finish(again)).counted == [True]
    rest = await stage.other.serve()
    assert list(rest.begun) == ["b"]
    await stage.other.finish(rest.begun)
    await stage.other.serve()
    assert await no_line_is_left(redis)


async def test_another_limit_lets_as_many_begin(stage: Stage) -> None:
    """As many as may now begin try again, and who is still too many waits on."""
    await stage.policies.set_destination(HOST, DestinationPolicy(concurrency=1))
    await create(stage.store, "abcd")
    await stage.player.begin("abcd")
    await woken(stage.store)
    await stage.policies.set_destination(HOST, DestinationPolicy(concurrency=3))
    told = await woken(stage.store)
    assert told == ["b", "c"]
    assert list((await stage.player.begin(told)).begun) == ["b", "c"]
    assert list((await stage.player.begin("d")).waits) == ["d"]


# --- the worker's room ---


async def test_a_host_gets_no_more_than_the_worker_has_room_for(redis: Redis, stage: Stage) -> None:
    """Others are not concerned; the calls that end take the next ones in line."""
    player = stage.new_player(Slots(100, 2))
    await create(stage.store, "abcd")
    await stage.store.create([timer_to("http://other/", "x")])
    answers = await player.begin("abcdx")
    assert len(answers.begun) == 3
    assert answers.begun["x"].host == "other"
    assert answers.waits == dict.fromkeys({*"abcd"} - {*answers.begun}, 0)
    assert await waiting(redis) == sorted(answers.waits)
    await player.finish(answers.begun)
    following = await player.serve()
    assert list(following.begun) == sorted(answers.waits)
    await player.finish(following.begun)
    await player.serve()
    assert await no_line_is_left(redis)


async def test_who_waits_for_room_does_not_overtake(stage: Stage) -> None:
    """A later one does not begin before an earlier one because it was woken at the right moment."""
    player = stage.new_player(Slots(100, 1))
    await create(stage.store, "abc")
    first = await player.begin("a")
    for name in "bc":
        assert (await player.begin(name)).waits == {name: 0}
    await player.finish(first.begun)
    assert list((await player.begin("c")).begun) == ["b"]


async def test_another_worker_has_room(redis: Redis, stage: Stage) -> None:
    """The line that one worker cannot serve wakes others."""
    player = stage.new_player(Slots(100, 1))
    await create(stage.store, "abc")
    for name in "abc":
        await player.begin(name)
    await claim(stage.queue)
    stage.time.advance(PROBE_MS)
    await stage.relay.heal()
    other = stage.new_player()
    answers = await other.begin(await claim(stage.queue))
    assert list(answers.begun) == ["b", "c"]
    assert await waiting(redis) == []
