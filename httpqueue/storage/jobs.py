"""The jobs, kept on the store's server: what they are to do, how far they have come, and who does them.

A relay takes a job under a lease, notes after each step where to go on, and gives it up after a while. When
it dies, its lease ends and another relay goes on from the last note: it does at most one step again, and a
step leaves timers alone that are not as they were.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from secrets import token_urlsafe
from typing import Any, Final

import msgspec
import structlog
from redis.asyncio import Redis

from httpqueue.clock import StoreNow, server_time
from httpqueue.storage.connection import redis_errors
from httpqueue.storage.keys import job_keys
from httpqueue.storage.scripts import Script, pack, script_now
from httpqueue.timers.jobs import BEGINNING, KEPT_MS, SOLE, Cursor, Job, JobSpec, JobState

LEASE_MS: Final = 15_000
"""How long a job belongs to the relay that took it or noted its progress last."""
MAX_OPEN: Final = 20
"""How many jobs of one application may be open."""

_ID_BYTES: Final = 12
_JSON: Final = msgspec.json.Encoder()

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job has come: see timers.jobs.Job. total: None while nobody has estimated it."""

    cursor: Cursor
    done: int = 0
    matched: int = 0
    changed: int = 0
    total: int | None = None


class Jobs:
    """Keeps jobs. Methods raise UnavailableError when the server is away."""

    def __init__(self, redis: Redis, *, now: StoreNow = server_time) -> None:
        self._redis = redis
        self._now = now
        self._keys = job_keys()
        self._add, self._take, self._save, self._cancel = (
            Script(redis, f"job_{name}", [self._keys]) for name in ("add", "take", "save", "cancel")
        )

    async def add(self, spec: JobSpec) -> Job | None:
        """Store a job. Returns it, or the open one that does the same; None when too many are open."""
        sole = spec.kind.value if spec.kind in SOLE else ""
        answer = await self._add(
            0,
            script_now(self._now),
            token_urlsafe(_ID_BYTES),
            spec.application,
            _JSON.encode(spec),
            sole,
            MAX_OPEN,
        )
        return _answered(answer) if answer else None

    async def get(self, job_id: str) -> Job | None:
        """A job; None when there is none of this id, or it ended long ago."""
        with redis_errors():
            fields = await self._redis.hgetall(self._keys.jobs + job_id)  # type: ignore[misc] # redis-py: sync or async
        return _job(job_id, fields) if fields else None

    async def cancel(self, job_id: str) -> JobState | None:
        """Stop a job. Returns its state now, which may be how it had ended before; None: there is none."""
        answer = await self._cancel(0, script_now(self._now), job_id, KEPT_MS)
        return JobState(answer.decode()) if answer else None

    async def take(self, holder: str) -> Job | None:
        """Take the job that has waited longest for a relay, if there is one. holder: names this call."""
        while True:
            answer = await self._take(0, script_now(self._now), holder, LEASE_MS)
            if not answer:
                return None
            job = _answered(answer)
            if job is not None:
                return job
            job_id = answer[0].decode()
            log.error("jobs.unreadable", job=job_id)
            await self._save_as(job_id, holder, JobState.FAILED, {"error": "its record is damaged"})

    async def note(self, job: Job, holder: str, progress: Progress, *, is_given_up: bool) -> JobState | None:
        """Note how far a job has come, and renew the lease, or give the job up: any relay may take it.

        Returns the job's state now, which says when it was cancelled; None: another relay has the job, and
        nothing was noted.
        """
        lease_ms = 0 if is_given_up else LEASE_MS
        return await self._save_as(job.id, holder, JobState.RUNNING, _fields(progress), lease_ms=lease_ms)

    async def is_any_open(self) -> bool:
        """Whether any job has not ended."""
        with redis_errors():
            return bool(await self._redis.exists(self._keys.open))

    async def end(
        self, job: Job, holder: str, state: JobState, progress: Progress, error: str | None = None
    ) -> JobState | None:
        """Note that a job is DONE, FAILED or CANCELLED. Answers like note."""
        fields = _fields(progress) | ({"error": error} if error else {})
        return await self._save_as(job.id, holder, state, fields)

    async def _save_as(
        self, job_id: str, holder: str, state: JobState, fields: Mapping[str, Any], *, lease_ms: int = 0
    ) -> JobState | None:
        answer = await self._save(
            0, script_now(self._now), job_id, holder, state.value, lease_ms, KEPT_MS, pack(fields)
        )
        return JobState(answer.decode()) if answer else None


def _fields(progress: Progress) -> dict[str, Any]:
    fields = {
        "cursor": _JSON.encode(progress.cursor),
        "done": progress.done,
        "matched": progress.matched,
        "changed": progress.changed,
    }
    return fields if progress.total is None else fields | {"total": progress.total}


def _answered(answer: Sequence[Any]) -> Job | None:
    """{id, {field, value, ...}} as scripts answer it. None when it cannot be read."""
    job_id, pairs = answer
    return _job(job_id.decode(), dict(zip(pairs[::2], pairs[1::2], strict=True)))


def _job(job_id: str, fields: Mapping[bytes, bytes]) -> Job | None:
    """None when it cannot be read."""
    try:
        return Job(
            id=job_id,
            spec=msgspec.json.decode(fields[b"spec"], type=JobSpec),
            state=JobState(fields[b"state"].decode()),
            created_ms=int(fields[b"created"]),
            cursor=msgspec.json.decode(fields[b"cursor"], type=Cursor) if b"cursor" in fields else BEGINNING,
            total=_number(fields, b"total"),
            done=int(fields[b"done"]),
            matched=int(fields[b"matched"]),
            changed=int(fields[b"changed"]),
            started_ms=_number(fields, b"started"),
            ended_ms=_number(fields, b"ended"),
            error=fields[b"error"].decode() if b"error" in fields else None,
        )
    except (KeyError, ValueError, msgspec.MsgspecError):
        return None


def _number(fields: Mapping[bytes, bytes], name: bytes) -> int | None:
    return int(fields[name]) if name in fields else None
