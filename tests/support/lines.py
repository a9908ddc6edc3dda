"""Timers that wait for their host or application: how tests fill and read lines."""

from collections.abc import Iterable

from redis.asyncio import Redis

from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Begun, Refusal, Refused
from tests.support import frozen
from tests.support.frozen import new_timer, outbox_of, wake_up
from tests.support.keys import HELD, STORE

HOST = "receiver"


async def create(store: Store, names: Iterable[str]) -> None:
    """Timers to HOST, each due a millisecond before the next, the last one now."""
    names = list(names)
    await store.create([new_timer(name, number - len(names) + 1) for number, name in enumerate(names)])


async def begin(store: Store, names: Iterable[str], **room: int) -> dict[str, Begun | Refused]:
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
    entries = await outbox_of(store).read("relay", limit=5_000, block_ms=1)
    if entries:
        await outbox_of(store).acknowledge(entries)
    return [entry.wake_up.name.id for entry in entries if entry.wake_up]


async def waiting(redis: Redis) -> list[str]:
    """Everybody who waits in a line or for a reserved start, by due time; they are all held."""
    kinds = (STORE.lines.encode(), STORE.starts.encode())
    lines = [await redis.zrange(key, 0, -1) for key in await redis.keys() if key.startswith(kinds)]
    names = {member.partition(b":")[2] for line in lines for member in line}
    held = [name for name in await redis.zrange(HELD, 0, -1) if name in names]
    assert len(held) == len(names)
    return [name.decode() for name in held]


async def no_line_is_left(redis: Redis) -> bool:
    """Nobody waits anywhere."""
    kinds = (STORE.waiting, STORE.lines, STORE.starts)
    return not [key for key in await redis.keys() if key.decode().startswith(kinds)]


def waits_ms(answers: dict[str, Begun | Refused], now_ms: int) -> list[int]:
    """How long each has to wait; 0 for those that began."""
    return [answer.until_ms - now_ms if isinstance(answer, Refused) else 0 for answer in answers.values()]
