"""Workers that serve a host, and what tests read in its slot."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from redis.asyncio import Redis

from httpqueue.storage.hosts import Hosts, Serve, Served
from httpqueue.storage.keys import host_index_keys, host_keys
from httpqueue.timers.commands import WakeUp
from tests.support.frozen import LEASE_MS, T0_MS, wake_up

HOST = "receiver"
KEYS = host_keys(HOST)
INDEX = host_index_keys()
PLENTY = 1_000
"""More than any test asks for."""


def due(name: str, ms: int | None = None) -> WakeUp:
    """A wake-up that is due so many ms after T0_MS. By default letters are due in their order."""
    return replace(wake_up(name), due_ms=T0_MS + (ord(name[0]) if ms is None else ms))


async def serve(
    hosts: Hosts, asking: Iterable[str] = (), *, ended: Iterable[str] = (), want: int = PLENTY
) -> Served:
    """A worker's call for HOST."""
    request = Serve(
        HOST,
        asking=[due(name) for name in asking],
        ended=[due(name) for name in ended],
        want=want,
        lease_ms=LEASE_MS,
    )
    [served] = await hosts.serve([request])
    return served


def granted(served: Served) -> str:
    """The names of those that got permits, in their order."""
    return names(served.granted)


def names(wake_ups: Iterable[WakeUp]) -> str:
    """Their names, in their order."""
    return "".join(each.name.id for each in wake_ups)


def starts(served: Served) -> dict[str, int | None]:
    """When those that were refused are told to come back, in ms after T0_MS; None: not told."""
    return {each.name.id: start_ms - T0_MS if start_ms else None for each, start_ms in served.refused}


async def line(redis: Redis) -> str:
    """The names in HOST's line, in their order."""
    return "".join(member.split(b":")[1].decode() for member in await redis.zrange(KEYS.line, 0, -1))


async def permits(redis: Redis) -> str:
    """The names that have permits, in alphabetical order."""
    return "".join(
        sorted(member.split(b":")[1].decode() for member in await redis.zrange(KEYS.permits, 0, -1))
    )


async def is_indexed(redis: Redis) -> bool:
    """Whether probes look at HOST."""
    return await redis.zscore(INDEX.lines, HOST) is not None


def of_all(by_host: Mapping[str, Sequence[WakeUp]]) -> list[WakeUp]:
    """The wake-ups of all hosts together."""
    return [each for wake_ups in by_host.values() for each in wake_ups]
