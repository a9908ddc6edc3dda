"""What concerns a destination host: its rules, its line, the permits to call it, and its health.

All partitions share a host, so it has keys in a slot of its own. Who wants to call a host that has rules or a
line serves it first: the earliest wake-ups of the line get permits, whoever asked for them.

Every wake-up with a permit is given back (`ended`), or its permit expires and it returns to the front of the
line. What is in a line is found again by `probe`, through an index of lines.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import structlog
from redis.asyncio import Redis

from httpqueue.clock import StoreNow, server_time
from httpqueue.storage.connection import redis_errors, time_ms
from httpqueue.storage.keys import (
    host_index_keys,
    host_keys,
    parse_wake_up_id,
    wake_up_id,
)
from httpqueue.storage.record import decode_policy, encode_policy
from httpqueue.storage.scripts import PipelinedScript, Script, pack, script_now
from httpqueue.timers.commands import WakeUp
from httpqueue.timers.policies import DestinationPolicy

PROBE_MS: Final = 10_000
"""How long nobody serves a line until `probe` tells whom to wake. Also the time between two looks at it."""
RELEASE: Final = 500
"""The most wake-ups of one line that are woken together."""
MAX_CALLED: Final = 10_000
"""Of how many hosts the health is kept: of those that were called last. A client may invent hosts."""
FORGET_HOST_MS: Final = 7 * 24 * 3_600_000
"""How long the health of a host is kept after its last call."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Serve:
    """What a worker asks of a host: first it gives permits back, then it asks for others."""

    host: str
    ended: Sequence[WakeUp] = ()
    """Their calls have ended, or `begin` refused them."""
    asking: Sequence[WakeUp] = ()
    """They join the line, ordered by due_ms."""
    want: int = 0
    """How many calls the worker can start now."""
    lease_ms: int = 0
    """How long a permit holds unless it is renewed."""


@dataclass(frozen=True, slots=True)
class Served:
    """The answer to a Serve.

    refused: (wake-up, start) for each that asked and got no permit. start: when the host's rate lets it start
    if nothing changes, in ms since the epoch: put its wake-up into the queue for that time. 0: it waits for a
    permit, a pause or the worker's own room, and the next Serve or a probe finds it. When the rate holds the
    line up, `refused` has the first of the line even if it did not ask: so the line always has a wake-up.
    """

    host: str
    granted: list[WakeUp]
    """They may be called now. They need not be those that asked."""
    refused: list[tuple[WakeUp, int]]
    waiting: int
    """How many are left in the line."""
    first: WakeUp | None
    """The first of them."""


class Calls(NamedTuple):
    """Some calls to a host that have ended."""

    delivered: bool
    """Whether any of them was delivered."""
    failures: int
    """How many failed in a row up to the last one."""
    result: str
    """The status or error of the last one."""


@dataclass(frozen=True, slots=True)
class Health:
    """The last calls to a host: failures in a row, when the last one ended (ms), its status or error."""

    failures: int
    last_ms: int
    last_result: str


@dataclass(frozen=True, slots=True)
class Destination:
    """A destination: its policy, how many timers wait for it, how many calls are in flight, its health.

    `calls` counts only while the policy limits concurrency.
    """

    host: str
    policy: DestinationPolicy
    waiting: int
    calls: int
    health: Health | None


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What holds a wake-up up at its host. start_ms: as in Served.refused."""

    policy: DestinationPolicy
    is_in_line: bool
    start_ms: int


@dataclass(frozen=True, slots=True)
class _Look:
    """What host_probe says of a host."""

    host: str
    now_ms: int
    is_used: bool
    """Whether it has a line or permits."""
    wake_ups: list[WakeUp]
    """To be woken."""


class Hosts:
    """The destination hosts. Methods raise UnavailableError when the server is away.

    A call that fails may have reached some hosts and not others. Permits that it granted expire.
    """

    def __init__(self, redis: Redis, *, now: StoreNow = server_time) -> None:
        self._redis = redis
        self._now = now
        self._keys = host_index_keys()
        self._index = Script(redis, "host_index", [self._keys])
        self._serve, self._probe, self._renew, self._facts = (
            PipelinedScript(redis, f"host_{name}") for name in ("serve", "probe", "renew", "facts")
        )

    async def serve(self, requests: Sequence[Serve]) -> list[Served]:
        """Give permits back, let wake-ups join lines, and get permits for the first of each line.

        The answers are in the same order. Whoever has joined a line when this returns is found by `probe`. So
        only then may its timer be marked as waiting. A permit whose worker is lost is found, too, even if
        nobody asks for this host again.
        """
        answers = await self._serve(
            [
                (
                    host_keys(request.host),
                    (
                        script_now(self._now),
                        request.want,
                        request.lease_ms,
                        _packed(request.ended),
                        pack([part for each in request.asking for part in (wake_up_id(each), each.due_ms)]),
                    ),
                )
                for request in requests
            ]
        )
        probes, served = {}, []
        for request, (now_ms, waiting, granted, refused, first) in zip(requests, answers, strict=True):
            if waiting or granted:
                probes[request.host] = now_ms + PROBE_MS
            asked = {wake_up_id(each): each for each in request.asking}
            readable = await self._read(request.host, granted + refused[::2], asked)
            starts = zip(refused[::2], refused[1::2], strict=True)
            served.append(
                Served(
                    request.host,
                    [readable[member] for member in granted if member in readable],
                    [(readable[member], start_ms) for member, start_ms in starts if member in readable],
                    waiting,
                    parse_wake_up_id(first.decode(errors="replace")),
                )
            )
        await self._note_lines(probes)
        return served

    async def renew(self, permits: Mapping[str, Sequence[WakeUp]], lease_ms: int) -> None:
        """Renew permits, {host: wake-ups}. One that was given back or lost is not made again."""
        await self._renew(
            [
                (host_keys(host), (script_now(self._now), lease_ms, _packed(wake_ups)))
                for host, wake_ups in permits.items()
            ]
        )

    async def leave(self, host: str, wake_ups: Sequence[WakeUp]) -> None:
        """Take wake-ups out of the line: their timers were cancelled or changed."""
        with redis_errors():
            await self._redis.zrem(host_keys(host).line, *map(wake_up_id, wake_ups))

    async def are_waiting(self, host: str, wake_ups: Sequence[WakeUp]) -> list[bool]:
        """Whether each is in the line or has a permit that has not expired. False: it has to ask again."""
        [(_, places)] = await self._facts([(host_keys(host), (script_now(self._now), _packed(wake_ups)))])
        found: list[bytes] = places[::2]
        if b"line" in found:
            # A relay that died while it took the host out of the index may have missed a join.
            await self._note_lines({host: 0})
        return [bool(place) for place in found]

    async def facts(self, host: str, wake_up: WakeUp) -> HostFacts:
        """What the host says about a wake-up. The policy is the one that its line obeys now."""
        [(rules, (place, start_ms))] = await self._facts(
            [(host_keys(host), (script_now(self._now), _packed([wake_up])))]
        )
        return HostFacts(decode_policy(DestinationPolicy, rules), place == b"line", start_ms)

    # --- lines that nobody serves ---

    async def due_probes(self, limit: int) -> list[str]:
        """At most `limit` hosts that have to be looked at, for `probe`."""
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.zrange(self._keys.lines, 0, limit - 1, withscores=True)
            pipeline.time()
            entries, time = await pipeline.execute()
        now_ms = time_ms(time, self._now)
        return [host.decode() for host, probe_ms in entries if probe_ms <= now_ms]

    async def probe(self, hosts: Sequence[str]) -> dict[str, list[WakeUp]]:
        """Look at these hosts. Returns {host: wake-ups} of lines that nobody served for PROBE_MS: wake them.

        Permits that have expired return to the line. Each host gets the rules that are listed, in case
        set_rules died. A host with nobody in line and no permit is taken out of the index.
        """
        found = await self._look_at(hosts)
        used = {look.host: look.now_ms + PROBE_MS for look in found if look.is_used}
        empty = [look.host for look in found if not look.is_used]
        await self._note_lines(used, "XX")
        if empty:
            with redis_errors():
                await self._redis.zrem(self._keys.lines, *empty)
        # Who joined a line in between is in no index now. Who joins from now on adds the host again.
        again = await self._look_at(empty)
        await self._note_lines({look.host: 0 for look in again if look.is_used})
        return {look.host: look.wake_ups for look in found if look.wake_ups}

    async def can_start_any(self) -> bool:
        """Whether any waiting wake-up could start now. Those that wait for a rate do not count."""
        with redis_errors():
            hosts = await self._redis.zrange(self._keys.lines, 0, -1)
        rules = await self.rules()
        rated = {host for host, rule in rules.items() if rule.rate is not None}
        waiting = [host for host in map(bytes.decode, hosts) if host not in rated]
        looks = await self._run_probe(waiting, silence_ms=0) if waiting else []
        return any(look.wake_ups for look in looks)

    async def release(self, host: str) -> list[WakeUp]:
        """After a change of rules: the wake-ups of the line to wake now. Those that they leave go on."""
        [look] = await self._run_probe([host], silence_ms=0)
        return look.wake_ups

    # --- rules ---

    async def rules(self) -> dict[str, DestinationPolicy]:
        """The rules of all hosts that have some, for caches."""
        with redis_errors():
            listed: dict[bytes, bytes] = await self._redis.hgetall(self._keys.rules)  # type: ignore[misc] # redis-py: sync or async
        return {host.decode(): decode_policy(DestinationPolicy, raw) for host, raw in listed.items()}

    async def set_rules(self, host: str, policy: DestinationPolicy) -> None:
        """Replace the rules of a host. Then wake what `release` returns.

        They are listed first, and the host is put into the index of lines: if this dies then, the next probe
        writes them into the host's slot.
        """
        text = "" if policy == DestinationPolicy() else encode_policy(policy).decode()
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=True)
            if text:
                pipeline.hset(self._keys.rules, host, text)
            else:
                pipeline.hdel(self._keys.rules, host)
            pipeline.zadd(self._keys.lines, {host: 0})
            await pipeline.execute()
        await self._run_probe([host], silence_ms=0, rules=[text.encode()])

    async def neglected(self, hosts: Sequence[str]) -> list[str]:
        """Hosts that have other rules than are listed; those of `hosts` that are used and in no index."""
        listed = await self.rules()
        known = sorted({*hosts, *listed})
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            for host in known:
                keys = host_keys(host)
                pipeline.get(keys.rules)
                pipeline.exists(keys.line, keys.permits)
                pipeline.zscore(self._keys.lines, host)
            answers = await pipeline.execute()
        return [
            host
            for host, own, is_used, probe_ms in zip(
                known, answers[::3], answers[1::3], answers[2::3], strict=True
            )
            if decode_policy(DestinationPolicy, own) != listed.get(host, DestinationPolicy())
            or (is_used and probe_ms is None)
        ]

    async def look_soon_at(self, hosts: Sequence[str]) -> None:
        """Have `probe` look at these hosts next. It gives them the rules that are listed."""
        with redis_errors():
            await self._redis.zadd(self._keys.lines, dict.fromkeys(hosts, 0))

    # --- health and lists ---

    async def note_calls(self, calls: Mapping[str, Calls]) -> None:
        """Note how calls ended, {host: its calls}."""
        if not calls:
            return
        with redis_errors():
            now_ms = time_ms(await self._redis.time(), self._now)
            pipeline = self._redis.pipeline(transaction=False)
            for host, ended in calls.items():
                key = host_keys(host).health
                if ended.delivered:
                    pipeline.hset(key, "failures", str(ended.failures))
                else:
                    pipeline.hincrby(key, "failures", ended.failures)
                pipeline.hset(key, mapping={"last_ms": now_ms, "result": ended.result})
                pipeline.pexpire(key, FORGET_HOST_MS)
            pipeline.zadd(self._keys.called, dict.fromkeys(calls, now_ms))
            pipeline.zremrangebyscore(self._keys.called, "-inf", now_ms - FORGET_HOST_MS)
            pipeline.zcard(self._keys.called)
            *_, count = await pipeline.execute()
            if count > MAX_CALLED:
                await self._forget_health(count - MAX_CALLED)

    async def _forget_health(self, count: int) -> None:
        """Forget the health of so many hosts, those first that were called longest ago."""
        forgotten = await self._redis.zpopmin(self._keys.called, count)
        pipeline = self._redis.pipeline(transaction=False)
        for host, _ in forgotten:
            pipeline.delete(host_keys(host.decode()).health)
        await pipeline.execute()

    async def destinations(self, *, after: str = "", limit: int = 1_000) -> list[Destination]:
        """The first `limit` destinations behind `after` that have rules or were called, sorted by host.

        Those without rules are the MAX_CALLED that were called last, in the last 7 days. All names are read,
        but only these destinations.
        """
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.hgetall(self._keys.rules)
            pipeline.zrange(self._keys.called, 0, -1)
            rules, called = await pipeline.execute()
        hosts = sorted(raw for raw in {*rules, *called} if raw > after.encode())[:limit]
        return await self._destinations({raw.decode(): rules.get(raw) for raw in hosts})

    async def destination(self, host: str) -> Destination:
        """One destination. It has the default policy and no health if it was never called or limited."""
        with redis_errors():
            raw = await self._redis.hget(self._keys.rules, host)  # type: ignore[misc] # redis-py: sync or async
        [found] = await self._destinations({host: raw})
        return found

    async def _destinations(self, rules: dict[str, bytes | None]) -> list[Destination]:
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            for keys in map(host_keys, rules):
                pipeline.zcard(keys.line)
                pipeline.zcard(keys.permits)
                pipeline.hmget(keys.health, ["failures", "last_ms", "result"])
            answers = await pipeline.execute()
        found = []
        for n, (host, raw) in enumerate(rules.items()):
            policy = decode_policy(DestinationPolicy, raw)
            waiting, permits, health = answers[3 * n : 3 * n + 3]
            calls = 0 if policy.concurrency is None else permits
            found.append(Destination(host, policy, waiting, calls, _health(health)))
        return found

    async def _look_at(self, hosts: Sequence[str]) -> list[_Look]:
        """Look at hosts, and write the listed rules into their slots."""
        if not hosts:
            return []
        with redis_errors():
            listed = await self._redis.hmget(self._keys.rules, list(hosts))  # type: ignore[misc] # redis-py: sync or async
        return await self._run_probe(hosts, silence_ms=PROBE_MS, rules=[raw or b"" for raw in listed])

    async def _run_probe(
        self, hosts: Sequence[str], *, silence_ms: int, rules: Sequence[bytes] | None = None
    ) -> list[_Look]:
        """rules: write these; None: leave them as they are."""
        texts = [b""] * len(hosts) if rules is None else rules
        answers = await self._probe(
            [
                (host_keys(host), (script_now(self._now), silence_ms, RELEASE, int(rules is not None), text))
                for host, text in zip(hosts, texts, strict=True)
            ]
        )
        return [
            _Look(host, now_ms, bool(is_used), list((await self._read(host, members, {})).values()))
            for host, (now_ms, is_used, members) in zip(hosts, answers, strict=True)
        ]

    async def _read(
        self, host: str, members: Sequence[bytes], asked: Mapping[str, WakeUp]
    ) -> dict[bytes, WakeUp]:
        """The wake-ups that these members name: those of `asked` as they are there.

        What nobody can read is dropped. Otherwise it would come first for ever.
        """
        found, unreadable = {}, []
        for member in members:
            text = member.decode(errors="replace")
            wake_up = asked.get(text) or parse_wake_up_id(text)
            if wake_up is None:
                unreadable.append(member)
            else:
                found[member] = wake_up
        if unreadable:
            log.warning("hosts.unreadable", host=host, wake_ups=[repr(each) for each in unreadable])
            keys = host_keys(host)
            with redis_errors():
                await self._redis.zrem(keys.line, *unreadable)
                await self._redis.zrem(keys.permits, *unreadable)
        return found

    async def _note_lines(self, probes: Mapping[str, int], which: str = "NX") -> None:
        """Note when to look at hosts next. NX: only hosts new to the index. XX: only those that are in it."""
        if probes:
            await self._index(0, which, pack([part for host, ms in probes.items() for part in (ms, host)]))


def _packed(wake_ups: Sequence[WakeUp]) -> bytes:
    return pack([wake_up_id(wake_up) for wake_up in wake_ups])


def _health(raw: list[bytes | None]) -> Health | None:
    failures, last_ms, result = raw
    if failures is None or last_ms is None or result is None:
        return None
    return Health(int(failures), int(last_ms), result.decode(errors="replace"))
