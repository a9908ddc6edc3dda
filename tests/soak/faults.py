"""Makes the faults of a plan."""

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from redis.exceptions import RedisError

from httpqueue.clock import now_ms, sleep
from tests.soak.events import Log, Struck
from tests.soak.plan import Fault, Kind
from tests.soak.receivers import Hook
from tests.soak.stage import Part, Server, Stage

UNLIMITED: Final = 0
_PAUSE_S: Final = 0.05


class Faults:
    """Strikes as planned, and writes down when each fault began and was over."""

    def __init__(self, stage: Stage, hooks: dict[str, Hook], log: Log) -> None:
        self._stage = stage
        self._hooks = hooks
        self._log = log

    async def play(self, faults: Sequence[Fault]) -> None:
        """Make each at its time. All are over when this returns."""
        async with asyncio.TaskGroup() as tasks:
            for fault in faults:
                await sleep(max(self._log.start_ms + fault.at_ms - now_ms(), 0) / 1000)
                tasks.create_task(self._strike(fault))

    async def _strike(self, fault: Fault) -> None:
        start_ms = now_ms()
        try:
            async with self._broken(fault):
                await sleep(fault.for_ms / 1000)
        except Exception as error:  # noqa: BLE001 - one fault that cannot be made does not end the soak
            self._log.findings.append(f"{fault.kind} of {fault.target} could not be made: {error!r}")
            return
        self._log.struck.append(Struck(fault.kind, fault.target, start_ms, now_ms()))

    @asynccontextmanager
    async def _broken(self, fault: Fault) -> AsyncIterator[None]:
        """Broken inside. When it ends, all works again."""
        if fault.target in self._hooks:
            hook = self._hooks[fault.target]
            hook.fault = fault.kind
            yield
            hook.fault = None
        elif fault.target in self._stage.ways:
            way = self._stage.ways[fault.target]
            match fault.kind:
                case Kind.CUT:
                    way.cut()
                case Kind.HALF_OPEN:
                    way.half_open()
                case Kind.DELAY:
                    way.latency_s = fault.delay_ms / 1000
                case Kind.LOST_REPLY:
                    way.drops_reply = True
            yield
            while way.drops_reply:  # the next one may take a moment
                await sleep(_PAUSE_S)
            way.mend()
        elif fault.target in self._stage.parts:
            async with _part_broken(self._stage.parts[fault.target], fault.kind):
                yield
        else:
            async with _server_broken(self._stage.servers[fault.target], fault.kind):
                yield


@asynccontextmanager
async def _part_broken(part: Part, kind: Kind) -> AsyncIterator[None]:
    if kind is Kind.FREEZE:
        part.send_signal(signal.SIGSTOP)
        yield
        part.send_signal(signal.SIGCONT)
    else:
        await part.end(signal.SIGKILL if kind is Kind.KILL else signal.SIGTERM)
        yield
        await part.start()


@asynccontextmanager
async def _server_broken(server: Server, kind: Kind) -> AsyncIterator[None]:
    match kind:
        case Kind.SERVER_KILL:
            await server.kill()
            yield
            await server.start()
        case Kind.SERVER_FREEZE:
            server.send_signal(signal.SIGSTOP)
            yield
            server.send_signal(signal.SIGCONT)
            await server.until_answering()
        case Kind.MAXMEMORY:
            await _told(server, "CONFIG SET", "maxmemory", 1)
            yield
            await _told(server, "CONFIG SET", "maxmemory", UNLIMITED)
        case Kind.CLIENT_KILL:
            for clients in ("normal", "pubsub"):
                await _told(server, "CLIENT KILL", "TYPE", clients, "SKIPME", "yes")
            yield
        case Kind.SCRIPT_FLUSH:
            await _told(server, "SCRIPT FLUSH")
            yield
        case Kind.FLUSHALL:
            await _told(server, "FLUSHALL")
            yield


async def _told(server: Server, *command: Any) -> None:
    """Until it has obeyed: its connection may be one that was killed."""
    while True:
        with suppress(RedisError, OSError):
            await server.client.execute_command(*command)
            return
        await sleep(_PAUSE_S)
