"""Does jobs: takes one, makes steps for a little while, and gives it up, so that each job has its turn.

A step visits some hundred timers and keeps Redis for less than 50 ms. Between two steps the relay rests for
as long as the last one took: a job takes at most half of what Redis can do.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final
from uuid import uuid4

import structlog
from msgspec.structs import replace as changed

from httpqueue import clock
from httpqueue.errors import UnavailableError
from httpqueue.storage.jobs import Progress
from httpqueue.storage.lookup import Window
from httpqueue.storage.policies import RELEASE
from httpqueue.storage.storage import Storage
from httpqueue.timers.commands import Change, ChangeResult, Position
from httpqueue.timers.jobs import BEGINNING, STATES_OF, Cursor, Job, JobKind, JobState
from httpqueue.timers.names import TimerName
from httpqueue.timers.policies import ApplicationPolicy
from httpqueue.timers.schedule import Delay
from httpqueue.timers.timer import State, Timer

LOOK: Final = 250
"""Index entries that one step reads."""
SLICE_S: Final = 0.5
"""After this time another job has its turn, in s."""
BEHIND_ALL: Final = -1
"""In a cursor, instead of a partition: it is behind the last one."""

log = structlog.get_logger()


class Jobs:
    """Works on jobs. Any number of relays may do so."""

    def __init__(self, storage: Storage) -> None:
        self._jobs = storage.jobs
        self._store = storage.store
        self._lookup = storage.lookup
        self._policies = storage.policies
        self._retention = storage.retention
        self._partitions = storage.partitions.all

    async def work(self) -> int:
        """Give each open job a turn, again and again, until none can go on now. Returns how many turns."""
        turns, idle = 0, set[str]()
        while True:
            holder = uuid4().hex
            job = await self._jobs.take(holder)
            if job is None:
                return turns
            turns += 1
            if await self._turn(job, holder):
                idle.clear()
            elif job.id in idle:
                return turns  # all that are open wait for something
            else:
                idle.add(job.id)

    async def has_any(self) -> bool:
        """Whether any job has not ended."""
        return await self._jobs.is_any_open()

    async def _turn(self, job: Job, holder: str) -> bool:
        """Make steps until the turn is over, the job has ended, or another relay has it.

        Returns False when the job has to wait for something.
        """
        try:
            return await self._steps(job, holder)
        except UnavailableError:
            raise  # the lease ends, then any relay goes on
        except Exception as error:
            log.exception("jobs.failed", job=job.id, kind=job.spec.kind.value)
            reason = f"an error in httpqueue: {type(error).__name__}"
            await self._jobs.end(job, holder, JobState.FAILED, _progress(job), reason)
            return True

    async def _steps(self, job: Job, holder: str) -> bool:
        started_s = clock.monotonic_s()
        if job.total is None:
            job = replace(job, total=await self._estimate(job))
        if job.spec.kind is JobKind.DELETE and job.state is JobState.RUNNING:
            await self._mark_deleted(job.spec.application)
        while True:
            if job.state is JobState.CANCELLING:
                await self._cancel(job, holder)
                return True
            step_s = clock.monotonic_s()
            job = await self._step(job)
            now_s = clock.monotonic_s()
            must_wait = False
            if job.cursor.partition == BEHIND_ALL:
                if await self._is_complete(job):
                    await self._end(job, holder)
                    return True
                job, must_wait = replace(job, cursor=BEGINNING), not job.cursor.has_found
            is_over = must_wait or now_s - started_s > SLICE_S
            state = await self._jobs.note(job, holder, _progress(job), is_given_up=is_over)
            if state is None or is_over:
                return not must_wait
            job = replace(job, state=state)
            await clock.sleep(now_s - step_s)

    # --- one step ---

    async def _step(self, job: Job) -> Job:
        """Visit some timers. Returns the job as it is then."""
        if job.spec.kind is JobKind.RESUME:
            return await self._release_some(job)
        window = _window(job)
        partition, position = job.cursor.partition, _position(job)
        page = await self._lookup.walk(partition, job.spec.application, window, position, look_at=LOOK)
        matching = [timer for timer in page.timers if job.spec.selection.matches(timer)]
        changed_count = 0
        if not job.spec.dry_run:
            changed_count = await self._change(job, partition, matching)
        return replace(
            job,
            cursor=self._after(job, page.next, has_found=bool(page.timers)),
            done=job.done + len(page.timers),
            matched=job.matched + len(matching),
            changed=job.changed + changed_count,
        )

    async def _change(self, job: Job, partition: int, timers: Sequence[Timer]) -> int:
        """Do what the job is for to these timers. Returns how many were as they had been read."""
        if not timers:
            return 0
        spec, states = job.spec, STATES_OF[job.spec.kind]
        match spec.kind:
            case JobKind.REPLAY:
                answers = await self._store.change(
                    [Change(each.name, states, version=each.version, due=Delay(0)) for each in timers]
                )
                return sum(answer.result is ChangeResult.CHANGED for answer in answers)
            case JobKind.CANCEL:
                policy = await self._policies.application(spec.application)
                items = [(timer, spec.retention_of(timer, policy)) for timer in timers]
                return await self._store.end_timers(partition, items, states=states)
        return await self._store.delete_timers(partition, timers, states=states)

    async def _release_some(self, job: Job) -> Job:
        partition, name = job.cursor.partition, job.spec.application
        if (await self._policies.application(name)).paused:
            return replace(job, cursor=Cursor(BEHIND_ALL))  # paused again: the next resume goes on
        count = await self._policies.release(partition, name)
        return replace(
            job,
            cursor=job.cursor if count == RELEASE else self._after(job, None, has_found=True),
            done=job.done + count,
            matched=job.matched + count,
            changed=job.changed + count,
        )

    def _after(self, job: Job, position: Position | None, *, has_found: bool) -> Cursor:
        partition, has_found = job.cursor.partition, has_found or job.cursor.has_found
        if position is not None:
            return Cursor(partition, position.due_ms, position.name.id, has_found)
        following = partition + 1 if partition + 1 in self._partitions else BEHIND_ALL
        return Cursor(following, has_found=has_found)

    # --- the beginning and the end ---

    async def _estimate(self, job: Job) -> int:
        if job.spec.kind is JobKind.RESUME:
            return await self._policies.waiting(job.spec.application)
        return await self._lookup.count(job.spec.application, _window(job))

    async def _is_complete(self, job: Job) -> bool:
        """Whether nothing is left. Timers that run while their application is deleted end a little later.

        One may have ended behind the job's back: so it is complete when it has found none at all.
        """
        if job.spec.kind is not JobKind.DELETE:
            return True
        if job.cursor.has_found:
            return False
        counts = (await self._policies.counted(job.spec.application)).counts
        return not (counts.keys() & {State.SCHEDULED, State.RUNNING})

    async def _end(self, job: Job, holder: str) -> None:
        if job.spec.kind is JobKind.DELETE:
            await self._policies.update_application(job.spec.application, lambda _: ApplicationPolicy())
        job = replace(job, total=job.done)
        await self._jobs.end(job, holder, JobState.DONE, _progress(job))
        log.info("jobs.done", job=job.id, kind=job.spec.kind.value, changed=job.changed)

    async def _cancel(self, job: Job, holder: str) -> None:
        """What is done stays. An application that was to be deleted stays paused until it is resumed."""
        if job.spec.kind is JobKind.DELETE:
            await self._policies.update_application(
                job.spec.application, lambda policy: changed(policy, is_deleted=False)
            )
        await self._jobs.end(job, holder, JobState.CANCELLED, _progress(job))

    async def _mark_deleted(self, application: str) -> None:
        """No timer of it begins from now on, and no new one is stored."""
        await self._policies.update_application(
            application, lambda policy: changed(policy, paused=True, is_deleted=True)
        )


def _window(job: Job) -> Window:
    """Which timers a job visits. A replay visits none that has failed since: it would send it for ever."""
    selection, to_ms = job.spec.selection, job.spec.selection.due_to_ms
    if job.spec.kind is JobKind.REPLAY:
        to_ms = job.created_ms if to_ms is None else min(to_ms, job.created_ms)
    return Window(STATES_OF[job.spec.kind], job.spec.application, selection.due_from_ms, to_ms)


def _position(job: Job) -> Position | None:
    cursor = job.cursor
    return Position(cursor.due_ms, TimerName(job.spec.application, cursor.id)) if cursor.id else None


def _progress(job: Job) -> Progress:
    return Progress(job.cursor, job.done, job.matched, job.changed, job.total)
