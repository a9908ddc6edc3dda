"""What one partition of the store holds, all of it read at once, for the state machine."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

import msgpack
from redis.asyncio import Redis

from httpqueue.storage.keys import host_keys, name_of
from httpqueue.storage.partitions import Partitions
from httpqueue.storage.record import read_pointer
from httpqueue.timers.commands import WakeUp
from httpqueue.timers.names import DEFAULT_APPLICATION
from httpqueue.timers.timer import FINISHED
from tests.support.keys import ended
from tests.support.store_model import HOSTS, LANES

_FIELDS: Final = ("next", "running", "retention", "pointers", "waiting", "probes", "set_aside")
_MEMBERS: Final = [
    ("due", DEFAULT_APPLICATION),
    ("held", DEFAULT_APPLICATION),
    ("lines", DEFAULT_APPLICATION),
    *(("lanes", f"{DEFAULT_APPLICATION}:{lane}") for lane in LANES),
    *(("ended", ended(state)) for state in FINISHED),
]
_POINTER_BYTES: Final = 32


@dataclass
class View:
    """Of one partition. Timers of the default application stand by their ids."""

    indices: dict[str, dict[str, float]]
    """Sorted sets by their field, or by field and member (`lanes:lane`)."""
    counts: dict[str, int]
    """By state letter."""
    pending: int
    """How many have not ended, as `counts` says."""
    bytes: int
    """Those of the records, as `counts` says."""
    sizes: dict[str, int]
    """The bytes of each record."""
    records: frozenset[str]
    pointers: dict[str, int]
    """Which partition the pointer of a name names."""
    nonces: dict[str, str]
    """The nonce of each pointer."""
    told: list[WakeUp]
    """What is new in the outbox."""


class Viewer:
    """Looks at all partitions and hosts, again and again."""

    def __init__(self, redis: Redis, partitions: Partitions, timer_ids: Collection[str]) -> None:
        self._redis = redis
        self._partitions = partitions
        self._ids = timer_ids
        self._last_entries = dict.fromkeys(partitions.all, "-")

    async def look(self) -> tuple[list[View], dict[str, int]]:
        """Each partition, and how many permits each host has given."""
        pipeline = self._redis.pipeline(transaction=False)
        for partition, keys in zip(self._partitions.all, self._partitions.store_keys, strict=True):
            for field in _FIELDS:
                pipeline.zrange(getattr(keys, field), 0, -1, withscores=True)
            for field, member in _MEMBERS:
                pipeline.zrange(getattr(keys, field) + member, 0, -1, withscores=True)
            for timer_id in self._ids:
                pipeline.getrange(f"{keys.records}{DEFAULT_APPLICATION}:{timer_id}", 0, _POINTER_BYTES)
                pipeline.strlen(f"{keys.records}{DEFAULT_APPLICATION}:{timer_id}")
            pipeline.hgetall(keys.counts)
            pipeline.xrange(keys.outbox, self._last_entries[partition])
        for host in HOSTS:
            pipeline.zcard(host_keys(host).permits)
        answers = iter(await pipeline.execute())
        views = [self._view(partition, answers) for partition in self._partitions.all]
        return views, {host: next(answers) for host in HOSTS}

    def _view(self, partition: int, answers: Any) -> View:
        names = [*_FIELDS, *(f"{field}:{member}" for field, member in _MEMBERS)]
        indices = {
            name.replace(f":{DEFAULT_APPLICATION}", ""): {
                member.decode().removeprefix(f"{DEFAULT_APPLICATION}:"): score
                for member, score in next(answers)
            }
            for name in names
        }
        records, sizes = {}, {}
        for timer_id in self._ids:
            records[timer_id], sizes[timer_id] = next(answers), next(answers)
        pointers = {timer_id: read_pointer(record) for timer_id, record in records.items()}
        counts, entries = next(answers), next(answers)
        if entries:
            self._last_entries[partition] = f"({entries[-1][0].decode()}"
        by_name = {field.decode().removeprefix(DEFAULT_APPLICATION): int(n) for field, n in counts.items()}
        pending, size = by_name.pop(":p", 0), by_name.pop(":b", 0)
        return View(
            indices,
            {field.removeprefix(":"): count for field, count in by_name.items()},
            pending,
            size,
            {each: sizes[each] for each, record in records.items() if record and pointers[each] is None},
            frozenset(each for each, record in records.items() if record and pointers[each] is None),
            {each: pointer for each, pointer in pointers.items() if pointer is not None},
            {each: _nonce_of(records[each]) for each, pointer in pointers.items() if pointer is not None},
            [
                WakeUp(name_of(entry[b"timer"]), int(entry[b"generation"]), int(entry[b"due"]), partition)
                for _, entry in entries
            ],
        )


def _nonce_of(pointer: bytes) -> str:
    unpacker = msgpack.Unpacker()
    unpacker.feed(pointer)
    _, _, _, nonce = unpacker
    return str(nonce)
