"""Timers that wait for their host or application: how tests fill and read lines."""

from collections.abc import Iterable

from redis.asyncio import Redis

from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Begun, Refusal, Refused
from httpqueue.timers.names import DEFAULT_APPLICATION
from httpqueue.timers.room import Room
from tests.support import frozen
from tests.support.frozen import acknowledge, new_timer, read_outbox, wake_up
from tests.support.keys import Everywhere

HOST = "receiver"


async def create(store: Store, names: Iterable[str]) -> None:
    """Timers to HOST, each due a millisecond before the next, the last one now."""
    names = list(names)
    await store.create([new_timer(name, number - len(names) + 1) for number, name in enumerate(names)])


async def begin(store: Store, names: Iterable[str], room: Room | None = None) -> dict[str, Begun | Refused]:
    """The answer to each wake-up."""
    names = list(names)
    answers = await frozen.begin(store, [wake_up(name) for name in names], room=room)
    return dict(zip(names, answers, strict=True))


def begun(answers: dict[str, Begun | Refused]) -> list[Begun]:
    """Those that began."""
    return [answer for answer in answers.values() if isinstance(answer, Begun)]


def refusals(answers: dict[str, Begun | Refused]) -> dict[str, Refusal | None]:
    """Why the others did not; None for those that did."""
    return {name: answer.refusal if isinstance(answer, Refused) else None for name, answer in answers.items()}


async def woken(store: Store) -> list[str]:
    """Of whom the relay was told since the last call."""
    entries = await read_outbox(store)
    await acknowledge(store, entries)
    return [entry.wake_up.name.id for entry in entries if entry.wake_up]


async def waiting(redis: Redis) -> list[str]:
    """Everybody who waits for a host or a paused application, by due time; they are all held."""
    everywhere = Everywhere(redis)
    lines = await everywhere.zset("lines", DEFAULT_APPLICATION)
    names = {member.partition(":")[2] for member in {**lines, **await everywhere.zset("waiting")}}
    held = [name for name in await everywhere.zset("held", DEFAULT_APPLICATION) if name in names]
    assert len(held) == len(names)
    return held


async def no_line_is_left(redis: Redis) -> bool:
    """Nobody waits anywhere."""
    everywhere = Everywhere(redis)
    hosts = await redis.keys("hq:{host:*}:line") + await redis.keys("hq:{host:*}:permits")
    return not hosts and not await everywhere.zcard("waiting") and not await redis.keys("hq:{*}:line:*")
