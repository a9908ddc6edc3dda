"""Timers: one typed method a transition, many timers a call.

A call is one Redis script, so after a crash each of its timers is either through or untouched.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import msgpack
import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from httpqueue.clock import StoreNow, server_time
from httpqueue.errors import StartError
from httpqueue.storage import keys
from httpqueue.storage.archive import Archive
from httpqueue.storage.connection import Script, connect, redis_errors
from httpqueue.storage.outbox import Outbox
from httpqueue.timers.commands import (
    Answer,
    Begun,
    Change,
    Changed,
    Created,
    Creation,
    Cursor,
    Finish,
    Found,
    NewTimer,
    Page,
    Refusal,
    Refused,
    WakeUp,
)
from httpqueue.timers.schedule import After, At
from httpqueue.timers.spec import Spec, encode_spec
from httpqueue.timers.timer import STATE_OF_LETTER, State, decode_record, encode_attempt
from httpqueue.webhooks.outcome import Outcome

LEASE_MARGIN_MS: Final = 10_000
"""A running attempt is believed alive this much longer than it may take."""
KEPT_ATTEMPTS: Final = 10
"""So many of the last attempts stay in a record."""
SCRIPT_KEYS: Final = (
    keys.RECORD_PREFIX,
    keys.DUE,
    keys.RUNNING,
    keys.FINISHED,
    keys.RETENTION,
    keys.OUTBOX,
    keys.COUNTS,
    keys.APPLICATIONS,
    keys.DESTINATIONS,
    keys.LANE_PREFIX,
    keys.LINE_PREFIX,
    keys.CALLS_PREFIX,
    keys.RATE_PREFIX,
    keys.SLOTS_PREFIX,
    keys.HEALTH,
    keys.SET_ASIDE,
    keys.WAITING,
)
"""KEYS of every script of the store, in the order of lua/common.lua."""

log = structlog.get_logger()


class Store(Outbox):
    """Every method raises UnavailableError when the server is away; it then did all of a call or nothing."""

    def __init__(self, redis: Redis, *, archive: Archive, now: StoreNow = server_time) -> None:
        super().__init__(redis, now=now)
        self._archive = archive
        self.on_woken: Callable[[WakeUp], None] | None = None
        """Takes what finish lets start, next in a lane or a line; None: it goes the way of all wake-ups."""
        self._create, self._begin, self._finish, self._change, self._cancel, self._forget, self._upcoming = (
            Script(redis, name)
            for name in ("create", "begin", "finish", "change", "cancel", "forget", "upcoming")
        )

    async def create(self, timers: Sequence[NewTimer]) -> list[Created]:
        """Store new timers; the answers stand in their order."""
        batch = [
            (
                timer.member,
                encode_spec(timer.spec),
                *_due(timer),
                timer.spec.timeout_ms or 0,
                timer.spec.ordering_key or "",
                timer.if_exists.value,
            )
            for timer in timers
        ]
        answers = await self._create(SCRIPT_KEYS, self._script_now(), _pack(batch))
        return [Created(Creation(creation.decode()), due_ms) for creation, due_ms in answers]

    async def begin(
        self,
        wake_ups: Sequence[WakeUp],
        *,
        lease_ms: int,
        room: dict[str, int] | None = None,
    ) -> list[Begun | Refused]:
        """Start an attempt for each wake-up whose timer is due; the answers stand in their order.

        A timer with a timeout of its own is leased for that and LEASE_MARGIN_MS. room: by host, how many
        calls the worker can still make, where that is not any number.
        """
        answers, applications = await self._begin(
            SCRIPT_KEYS,
            self._script_now(),
            lease_ms,
            LEASE_MARGIN_MS,
            _pack(room or {}),
            _pack([(wake_up.member, wake_up.generation) for wake_up in wake_ups]),
        )
        settings = dict(zip(applications[::2], applications[1::2], strict=True))
        return [_begun(wake_up, answer, settings) for wake_up, answer in zip(wake_ups, answers, strict=True)]

    async def finish(self, attempts: Sequence[Finish]) -> list[bool]:
        """Say how attempts ended; False for one that was no longer the timer's own."""
        layer = self._archive.current()
        batch = [
            (
                finish.wake_up.member,
                finish.wake_up.generation,
                finish.attempt,
                finish.outcome.value,
                finish.ms,
                encode_attempt(finish.last_attempt),
                []
                if finish.outcome is Outcome.RETRY or finish.next_due_ms
                else layer.positions(finish.wake_up.member),
                finish.next_due_ms or 0,
                _result(finish),
                _callback(finish.callback),
            )
            for finish in attempts
        ]
        answers, count, woken = await self._finish(
            (*SCRIPT_KEYS, layer.key, keys.ARCHIVE_COUNTS),
            self._script_now(),
            layer.number,
            KEPT_ATTEMPTS,
            _pack(batch),
            int(self.on_woken is not None),
        )
        self._archive.note_count(layer.number, count)
        if self.on_woken is not None:
            for member, generation in zip(woken[::2], woken[1::2], strict=True):
                self.on_woken(WakeUp(member.decode(), generation))
        return [bool(answer) for answer in answers]

    async def change(self, changes: Sequence[Change]) -> list[Changed]:
        """Give timers other content or another due time; the answers stand in their order."""
        batch = [
            (
                change.member,
                "".join(state.letter for state in change.states),
                change.version or "",
                "" if change.spec is None else encode_spec(change.spec),
                change.spec.timeout_ms or 0 if change.spec else 0,
                change.spec.ordering_key or "" if change.spec else "",
                False if change.due_ms is None else change.due_ms,
                change.from_now,
            )
            for change in changes
        ]
        answers = await self._change(SCRIPT_KEYS, self._script_now(), _pack(batch))
        return [_changed(answer) for answer in answers]

    async def cancel(self, application: str, timer_id: str, *, version: str | None, ms: int) -> Changed:
        """End a scheduled timer, whose record stays for ms; or delete a failed one."""
        layer = self._archive.current()
        member = keys.member(application, timer_id)
        answer, count = await self._cancel(
            (*SCRIPT_KEYS, layer.key, keys.ARCHIVE_COUNTS),
            self._script_now(),
            member,
            version or "",
            ms,
            layer.number,
            _pack(layer.positions(member)),
        )
        self._archive.note_count(layer.number, count)
        return _changed(answer)

    async def get(self, application: str, timer_id: str) -> Found | None:
        """The timer, or None when there is no record of it (then ask is_archived)."""
        member = keys.member(application, timer_id)
        with redis_errors():
            pipeline = self.redis.pipeline(transaction=False)
            pipeline.get(keys.RECORD_PREFIX + member)
            pipeline.zscore(keys.RETENTION, member)
            pipeline.time()
            record, kept_until_ms, time = await pipeline.execute()
        now_ms = self._now_ms(time)
        if record is None or (kept_until_ms is not None and kept_until_ms <= now_ms):
            return None
        return Found(decode_record(application, timer_id, record), now_ms)

    async def is_archived(self, application: str, timer_id: str) -> bool:
        """Whether a timer of that name finished once."""
        return await self._archive.contains(keys.member(application, timer_id))

    async def upcoming(self, cursor: Cursor, *, ahead_ms: int, limit: int) -> Page:
        """The wake-ups of timers due up to ahead_ms from now, of at most limit timers."""
        now_ms, member, due_ms, found = await self._upcoming(
            SCRIPT_KEYS, self._script_now(), cursor.from_ms, ahead_ms, cursor.after, limit
        )
        wake_ups: list[WakeUp] = []
        waiting: list[WakeUp] = []
        for name, generation, due, waits in zip(*(found[n::4] for n in range(4)), strict=True):
            (waiting if waits else wake_ups).append(WakeUp(name.decode(), generation, due))
        return Page(wake_ups, Cursor(due_ms, member.decode()) if member else None, now_ms, waiting)

    async def forget(self, *, limit: int) -> int:
        """Drop the records of finished timers whose retention is over; returns how many."""
        count: int = await self._forget(SCRIPT_KEYS, self._script_now(), limit)
        return count

    async def check(self, *, allow_unsafe: bool) -> None:
        """Whether this server may keep timers; raises StartError when not, and logs what is doubtful."""
        with redis_errors():
            memory = await self.redis.info("memory")
            persistence = await self.redis.info("persistence")
            snapshots = await self._snapshots()
        policy = memory.get("maxmemory_policy", "noeviction")
        if policy != "noeviction" and not allow_unsafe:
            raise StartError(
                f"Redis may evict timers (maxmemory-policy {policy}): set it to noeviction, "
                "or HTTPQUEUE_ALLOW_UNSAFE_REDIS=true"
            )
        if not persistence.get("aof_enabled") and not snapshots:
            log.warning("store.not_persistent", remedy="set appendonly yes in Redis")
        await self._archive.open()

    async def ping(self) -> None:
        """Raises UnavailableError with the reason."""
        with redis_errors():
            await self.redis.ping()

    def _script_now(self) -> int | str:
        now_ms = self.now()
        return "" if now_ms is None else now_ms

    async def _snapshots(self) -> bool:
        """Whether the server saves snapshots; one whose CONFIG is forbidden is believed to."""
        try:
            return bool((await self.redis.config_get("save")).get("save", "?"))
        except ResponseError:
            return True


def _pack(batch: Any) -> bytes:
    """For cmsgpack, which knows no bin type."""
    packed: bytes = msgpack.packb(batch, use_bin_type=False)
    return packed


def _due(timer: NewTimer) -> tuple[int, bool]:
    """Ms, and whether they count from the store's now."""
    match timer.spec.schedule:
        case After(delay_ms):
            return delay_ms, True
        case At(fire_at_ms):
            return fire_at_ms, False
    if timer.first_due_ms is None:
        raise TypeError("a wall-clock or recurring timer needs its first due time")
    return timer.first_due_ms, False


def _result(finish: Finish) -> str:
    """What the host gave: a status or an error; nothing when it was not called."""
    attempt = finish.last_attempt
    return (attempt.error or str(attempt.status)) if finish.was_called else ""


def _callback(callback: NewTimer | None) -> tuple[Any, ...]:
    if callback is None:
        return ()
    spec: Spec = callback.spec
    return callback.member, encode_spec(spec), spec.timeout_ms or 0


def _begun(wake_up: WakeUp, answer: list[Any], settings: dict[bytes, bytes]) -> Begun | Refused:
    match answer:
        case [b"begun", attempt, due_ms, now_ms, spec, host]:
            application = settings.get(wake_up.member.partition(":")[0].encode(), b"") if settings else b""
            return Begun(wake_up, attempt, due_ms, now_ms, spec, host, application)
        case [b"early", wait_ms]:
            return Refused(wake_up, Refusal.EARLY, wait_ms=wait_ms)
        case [b"waiting", until_ms]:
            return Refused(wake_up, Refusal.WAITING, until_ms=until_ms)
        case [refusal]:
            return Refused(wake_up, Refusal(refusal.decode()))
    raise TypeError(f"begin.lua answered {answer!r}")


def _changed(answer: list[Any]) -> Changed:
    match answer:
        case [b"changed", letter, due_ms, generation]:
            return Changed(Answer.CHANGED, _state(letter), due_ms, generation)
        case [b"gone"]:
            return Changed(Answer.GONE)
        case [b"state" | b"version" as reason, letter]:
            return Changed(Answer(reason.decode()), _state(letter))
    raise TypeError(f"the script answered {answer!r}")


def _state(letter: bytes) -> State:
    return STATE_OF_LETTER[letter]


@asynccontextmanager
async def open_store(
    url: str, *, archive_error_rate: float, now: StoreNow = server_time
) -> AsyncIterator[Store]:
    """A store on that server, which is not asked anything yet."""
    redis = connect(url, Redis)
    try:
        yield Store(redis, archive=Archive(redis, error_rate=archive_error_rate), now=now)
    finally:
        await redis.aclose()
