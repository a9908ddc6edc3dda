"""The API over a real Valkey, in the test's own time; timers are brought into each state without a worker."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import httpx
from arq.connections import ArqRedis
from redis.asyncio import Redis

from httpqueue.api.app import create_app
from httpqueue.api.audit_trail import AuditTrail
from httpqueue.api.backend import Backend
from httpqueue.api.key_ring import KeyRing
from httpqueue.relay.relay import Relay
from httpqueue.storage.queue import Queue
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Begun, Refusal, Refused, WakeUp
from httpqueue.timers.names import DEFAULT_APPLICATION, TimerName
from httpqueue.timers.timer import State
from httpqueue.webhooks.outcome import Outcome
from httpqueue.worker.permits import Permits
from tests.support.egress import PRIVATE
from tests.support.frozen import HOUR_MS, FrozenTime, begin, finish_of, storage_of
from tests.support.keys import PARTITIONS

HOOK: Final = "http://receiver/"
OUTCOMES: Final = {State.DONE: Outcome.DELIVERED, State.FAILED: Outcome.FAILED}


@dataclass
class Lab:
    """A client of the API, and what is behind it."""

    redis: Redis
    store: Store
    time: FrozenTime
    worker_silence_ms: int | None = 0
    api_keys: KeyRing | None = None

    def __post_init__(self) -> None:
        storage = storage_of(self.store)
        queue = Queue(ArqRedis(self.redis.connection_pool), partitions=PARTITIONS, now=self.time)
        self.permits = Permits(storage, queue)
        self.relay = Relay(storage=storage, queue=queue, horizon_ms=HOUR_MS, batch_size=500)
        self.trail = AuditTrail(storage.audit.append)
        app = create_app(
            Backend(
                store=self.store,
                lookup=storage.lookup,
                policies=storage.policies,
                jobs=storage.jobs,
                readiness=storage.ping,
                worker_silence_ms=self.silence_ms,
                retention_ms=HOUR_MS,
                egress=lambda: PRIVATE,
                now_ms=self.time,
                advance=self.advance,
                audit=storage.audit,
            ),
            api_keys=self.api_keys,
            trail=self.trail,
        )
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")

    async def silence_ms(self) -> int | None:
        """How long no worker was seen, as the test says."""
        return self.worker_silence_ms

    async def advance(self, target_of: Callable[[int], int]) -> None:
        """Time passes; nothing fires."""
        self.time.now_ms = target_of(self.time.now_ms)

    async def post(self, timer_id: str, **members: Any) -> dict[str, Any]:
        """A timer, due at once unless it says when; returns what is answered to it."""
        when = {} if {"fire_at", "cron", "seconds", "minutes"} & members.keys() else {"seconds": 0}
        response = await self.client.post("/timers", json={"id": timer_id, "url": HOOK, **when, **members})
        assert response.status_code in {200, 201}, response.text
        answer: dict[str, Any] = response.json()
        return answer

    async def get(self, timer_id: str, **query: str) -> dict[str, Any]:
        """What GET shows."""
        response = await self.client.get(f"/timers/{timer_id}", params=query)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    async def etag(self, timer_id: str) -> str:
        """The timer's ETag."""
        return (await self.client.get(f"/timers/{timer_id}")).headers["etag"]

    async def begin(
        self, timer_id: str, *, generation: int = 0, application: str = DEFAULT_APPLICATION
    ) -> Begun:
        """An attempt of a timer that is due."""
        begun = await self.try_to_begin(timer_id, generation=generation, application=application)
        assert isinstance(begun, Begun), begun
        return begun

    async def try_to_begin(
        self, timer_id: str, *, generation: int = 0, application: str = DEFAULT_APPLICATION
    ) -> Begun | Refused:
        """The same with a permit, if its host wants one; without one, the timer waits in its line."""
        name = TimerName(application, timer_id)
        wake_up = WakeUp(name, generation, partition=PARTITIONS.home_of(name))
        [answer] = await begin(self.store, [wake_up])
        if isinstance(answer, Refused) and answer.refusal is Refusal.NEEDS_PERMIT:
            [served] = await self.permits.ask({answer.host: ([wake_up], 1)})
            if wake_up in served.granted:
                [answer] = await begin(self.store, [wake_up], permits=[wake_up])
        return answer

    async def end(self, begun: Begun, outcome: Outcome, ms: int = HOUR_MS) -> None:
        """How it ended."""
        finish = finish_of(begun, outcome, ms)
        finished = await self.store.finish([finish])
        assert finished.counted == [True]
        self.permits.note_finished([finish])
        await self.permits.tell_health()

    async def bring(self, timer_id: str, state: State, **members: Any) -> None:
        """A new timer in that state."""
        await self.post(timer_id, **members)
        if state is State.CANCELLED:
            assert (await self.client.delete(f"/timers/{timer_id}")).status_code == 200
        elif state is not State.SCHEDULED:
            begun = await self.begin(timer_id, application=members.get("application", DEFAULT_APPLICATION))
            if state is State.ARCHIVED:
                await self.end(begun, Outcome.DELIVERED, ms=1)
                self.time.advance(2)
            elif state is not State.RUNNING:
                await self.end(begun, OUTCOMES[state])
