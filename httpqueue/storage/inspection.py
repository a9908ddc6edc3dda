"""What `httpqueue doctor` looks at and mends: servers, and where every timer stands.

Looking changes nothing. It reads all keys of the store once, and then the entries of the indices, some 1,000
at a time. It asks a constant number of questions about each 1,000.
"""

import re
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from httpqueue import clock
from httpqueue.clock import StoreNow, server_time
from httpqueue.storage.connection import redis_errors, time_ms
from httpqueue.storage.keys import FIRST_USE, RECORDS_OF_FORMAT_1, STORE_FORMAT, name_of
from httpqueue.storage.partitions import Partitions
from httpqueue.storage.pointers import POINTER_BYTES
from httpqueue.storage.record import STATE_OF_LETTER, read_pointer
from httpqueue.storage.scripts import PipelinedScript, Script, pack, script_now
from httpqueue.timers.checkup import Kind, Seen, Server

PAGE: Final = 1_000
"""About how many keys or index entries are looked at together."""

_KEY: Final = re.compile(rb"hq:\{([0-9]{1,9})\}(.+)", re.DOTALL)
"""A key of a partition. A record's has the member right behind the tag, the others a colon."""
_NAME: Final = re.compile(rb":([a-z-]+)(?::(.*))?", re.DOTALL)
"""What stands behind the tag in a key that is no record's."""
_HOST_KEY: Final = re.compile(rb"hq:\{host:(.*)\}:(?:line|permits|rules)", re.DOTALL)
_OF_APPLICATION: Final = {b"due", b"held", b"ended"}
"""Indices of ids; their application ends the key."""
_OF_ALL: Final = {b"running", b"retention", b"waiting", b"set-aside"}
"""Indices of members."""


@dataclass(frozen=True, slots=True)
class Index:
    """An index of timers: its key, and what stands before its entries to make them members."""

    partition: int
    key: bytes
    prefix: bytes = b""


@dataclass(slots=True)
class Page:
    """What some keys of the store are."""

    timers: list[tuple[int, bytes]] = field(default_factory=list)
    """(partition, member) of records and pointers."""
    indices: list[Index] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)
    """Hosts with rules, a line or permits in their own slots."""
    strange: list[str] = field(default_factory=list)
    """Keys of partitions that there are not."""


class Inspection:
    """Looks and mends. Methods raise UnavailableError when the server is away."""

    def __init__(self, redis: Redis, *, partitions: Partitions, now: StoreNow = server_time) -> None:
        self._redis = redis
        self._partitions = partitions
        self._now = now
        self._inspect = PipelinedScript(redis, "inspect")
        self._mend, self._tally = (Script(redis, name, partitions.store_keys) for name in ("mend", "tally"))

    async def server(self) -> Server:
        """What the store's server says of itself."""
        return await server_of(self._redis, "store", self._now)

    async def pages(self) -> AsyncIterator[Page]:
        """All keys of the store. A key may come twice; one that is made meanwhile may not come."""
        cursor = -1
        while cursor != 0:
            with redis_errors():
                cursor, keys = await self._redis.scan(max(cursor, 0), match="hq:{*", count=PAGE)
            yield self._sort(keys)

    def _sort(self, keys: Sequence[bytes]) -> Page:
        page = Page()
        for key in keys:
            of_host, of_partition = _HOST_KEY.fullmatch(key), _KEY.fullmatch(key)
            if of_host:
                page.hosts.add(of_host[1].decode(errors="replace"))
            if not of_partition:
                continue
            partition, name = int(of_partition[1]), _NAME.fullmatch(of_partition[2])
            if partition not in self._partitions.all:
                page.strange.append(key.decode(errors="backslashreplace"))
            elif not of_partition[2].startswith(b":"):
                page.timers.append((partition, of_partition[2]))
            elif name and name[1] in _OF_APPLICATION and name[2]:
                page.indices.append(Index(partition, key, name[2].rpartition(b":")[2] + b":"))
            elif name and name[1] in _OF_ALL:
                page.indices.append(Index(partition, key))
        return page

    async def entries(self, index: Index) -> AsyncIterator[Sequence[tuple[int, bytes]]]:
        """The (partition, member) pairs of an index, PAGE at a time."""
        start = 0
        while True:
            with redis_errors():
                found = await self._redis.zrange(index.key, start, start + PAGE - 1)
            if found:
                yield [(index.partition, index.prefix + entry) for entry in found]
            if len(found) < PAGE:
                return
            start += PAGE

    async def look(self, timers: Sequence[tuple[int, bytes]]) -> list[Seen]:
        """Where these timers stand, (partition, member). One round trip."""
        parts: dict[int, list[bytes]] = {}
        for partition, member in timers:
            parts.setdefault(partition, []).append(member)
        if not parts:
            return []
        answers = await self._inspect(
            [
                (self._partitions.store_keys[partition], (script_now(self._now), pack(members)))
                for partition, members in parts.items()
            ]
        )
        return [
            _seen(partition, member, now_ms, values)
            for (partition, members), (now_ms, packed) in zip(parts.items(), answers, strict=True)
            for member, values in zip(members, msgpack.unpackb(packed, raw=True), strict=True)
        ]

    async def pointers(self, members: Collection[bytes]) -> dict[bytes, int | None]:
        """The partitions that the pointers at the homes of these members name; None: there is none."""
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            for member in members:
                keys = self._partitions.store_keys[self._partitions.home_of(name_of(member))]
                pipeline.getrange(keys.records.encode() + member, 0, POINTER_BYTES)
            answers = await pipeline.execute()
        return {member: read_pointer(record) for member, record in zip(members, answers, strict=True)}

    async def have_records(self, places: Sequence[tuple[int, bytes]]) -> list[bool]:
        """Whether there is something under these (partition, member)."""
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            for partition, member in places:
                is_known = partition in self._partitions.all
                keys = self._partitions.store_keys[partition if is_known else 0]
                pipeline.exists(keys.records.encode() + member if is_known else b"")
            answers = await pipeline.execute()
        return [bool(answer) for answer in answers]

    async def mend(self, partition: int, members: Sequence[bytes], *, done_ms: int, failed_ms: int) -> None:
        """Put timers where their records say. done_ms, failed_ms: for those that lost their retention."""
        await self._mend(partition, script_now(self._now), done_ms, failed_ms, pack(members))

    async def tally(self, partition: int, *, is_to_mend: bool) -> list[str]:
        """Applications whose counts, or earliest due times, the indices contradict; '*': all together."""
        keys = self._partitions.store_keys[partition]
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.hkeys(keys.counts)
            pipeline.zrange(keys.next, 0, -1)
            fields, names = await pipeline.execute()
        applications = sorted({*names, *(each.partition(b":")[0] for each in fields)} - {b""})
        found: set[bytes] = set()
        for start in range(0, max(1, len(applications)), PAGE):
            part = applications[start : start + PAGE]
            for wrong in await self._tally(partition, int(is_to_mend), pack(part)):
                found.update(wrong)
        return sorted(each.decode(errors="backslashreplace") for each in found)

    async def upgrade(self) -> int:
        """Give the keys of records their names of format 2. Returns how many. No process may run meanwhile.

        If this dies, the next call goes on: the store has its new format when all keys have.
        """
        count, cursor = 0, -1
        while cursor != 0:
            with redis_errors():
                cursor, keys = await self._redis.scan(
                    max(cursor, 0), match=f"hq:{{*}}{RECORDS_OF_FORMAT_1}*", count=PAGE
                )
                pipeline = self._redis.pipeline(transaction=False)
                for key in keys:
                    pipeline.renamenx(key, key.replace(RECORDS_OF_FORMAT_1.encode(), b"", 1))
                count += sum(await pipeline.execute()) if keys else 0
        with redis_errors():
            await self._redis.hset(FIRST_USE, "format", STORE_FORMAT)  # type: ignore[misc] # redis-py: sync or async
        return count

    async def filled_epochs(self) -> list[str | None]:
        """The epoch of the queue that each partition was put into; None: never was one."""
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            for keys in self._partitions.store_keys:
                pipeline.hget(keys.filled, ":epoch")
            answers = await pipeline.execute()
        return [None if epoch is None else epoch.decode(errors="replace") for epoch in answers]


async def server_of(redis: Redis, role: str, now: StoreNow) -> Server:
    """What a server says of itself. role: store or queue."""
    with redis_errors():
        before_ms = clock.now_ms()
        server_ms = time_ms(await redis.time(), lambda: None)
        after_ms = clock.now_ms()
        info: dict[str, Any] = await redis.info("everything")
        try:
            saves = (await redis.config_get("save")).get("save", "")
        except ResponseError:
            saves = ""  # it does not let us ask
    disk = [
        ("aof_last_write_status", "append-only file"),
        ("rdb_last_bgsave_status", "snapshot"),
    ]
    is_aof = bool(info.get("aof_enabled"))
    is_own_time = now() is not None  # a test's clock, which the server does not follow
    return Server(
        role=role,
        product=str(info.get("server_name", "redis")),
        version=str(info.get("valkey_version", info.get("redis_version", ""))),
        used_bytes=int(info.get("used_memory", 0)),
        max_bytes=int(info.get("maxmemory", 0)),
        eviction=str(info.get("maxmemory_policy", "noeviction")),
        persistence="append-only file" if is_aof else "snapshots" if saves else "",
        write_error=", ".join(name for key, name in disk if info.get(key, "ok") != "ok"),
        is_replica=info.get("role") == "slave",
        ahead_ms=0 if is_own_time else server_ms - (before_ms + after_ms) // 2,
        round_trip_ms=after_ms - before_ms,
    )


def _seen(partition: int, member: bytes, now_ms: int, values: Sequence[Any]) -> Seen:
    """Values as lua/inspect.lua documents them."""
    kind, letter, generation, due_ms, lane, host, points_to, nonce, *scores, ended, is_first = values
    due, held, running, retention, in_lane, in_line, waiting, checked, set_aside = (
        None if score is False else float(score) for score in scores
    )
    return Seen(
        partition=partition,
        member=member,
        kind=Kind(kind.decode()),
        state=STATE_OF_LETTER[letter] if letter else None,
        generation=int(generation),
        due_ms=int(due_ms),
        lane=lane.decode(errors="replace"),
        host=host.decode(errors="replace"),
        points_to=int(points_to),
        nonce=nonce.decode(errors="replace"),
        now_ms=now_ms,
        due=due,
        held=held,
        running=running,
        retention=retention,
        in_lane=in_lane,
        in_line=in_line,
        waiting=waiting,
        checked=checked,
        set_aside=set_aside,
        ended=frozenset(STATE_OF_LETTER[bytes([each])] for each in ended),
        is_first=bool(is_first),
    )
