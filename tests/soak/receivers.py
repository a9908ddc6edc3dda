"""The tenants' webhooks: each answers as it is told, and writes down what it gets."""

from typing import Final

import orjson

from httpqueue.clock import now_ms, sleep
from tests.soak.events import Call, Log
from tests.soak.holders import pid_of
from tests.soak.plan import TENANTS, Kind
from tests.soak.stage import Stage
from tests.support.receiver import Answer, Received, Receiver, Reply, Writer, hang, reset

ADDRESSES: Final = dict(zip(TENANTS, ("127.0.0.1", "127.0.1.1"), strict=True))
"""Two hosts, because limits are those of hosts."""
_ANSWERS: Final = {
    Kind.STATUS_500: Reply(500),
    Kind.STATUS_503: Reply(503, headers=(("Retry-After", "1"),)),
}


class Hook(Receiver):
    """The receiver of one tenant."""

    def __init__(self, tenant: str, stage: Stage, log: Log) -> None:
        super().__init__(address=ADDRESSES[tenant])
        self.fault: Kind | None = None
        """How it misbehaves now."""
        self._tenant = tenant
        self._stage = stage
        self._log = log
        self._holders: dict[Writer, str | None] = {}

    def connected(self, writer: Writer) -> None:
        """See at once who calls: he may be gone soon."""
        super().connected(writer)
        peer, own = (writer._transport.get_extra_info(name) for name in ("peername", "sockname"))
        workers = [part.pid for name, part in self._stage.parts.items() if name.startswith("worker")]
        pid = pid_of(peer, own, workers)
        self._holders[writer] = None if pid is None else self._stage.part_of(pid)

    def disconnected(self, writer: Writer) -> None:
        """The connection is gone."""
        super().disconnected(writer)
        self._holders.pop(writer, None)

    def received(self, request: Received) -> Answer:
        """Write it down at once; requests are not kept, because a soak has many."""
        body = orjson.loads(request.body)
        call = Call(
            timer=request.path.removeprefix("/"),
            tenant=self._tenant,
            run=request.header("webhook-id") or "",
            attempt=int(request.header("httpqueue-attempt") or 0),
            version=body["version"],
            holder=None,
            arrived_ms=request.arrived_ms,
            started_s=int(request.header("webhook-timestamp") or 0),
        )
        self._log.calls.append(call)

        async def answer(request: Received, writer: Writer) -> None:
            call.holder = self._holders.get(writer)
            match self.fault:
                case Kind.HANG:
                    await hang(request, writer)
                case Kind.RESET:
                    await reset(request, writer)
                case fault:
                    if body["takes_ms"]:
                        await sleep(body["takes_ms"] / 1000)
                    reply = _ANSWERS[fault] if fault else Reply()
                    writer.write(reply.encode())
                    call.answered_ms, call.status = now_ms(), reply.status

        return answer


def new_hooks(stage: Stage, log: Log) -> dict[str, Hook]:
    """Tenant -> its receiver, which does not listen yet."""
    return {tenant: Hook(tenant, stage, log) for tenant in TENANTS}


async def until_quiet(log: Log, quiet_s: float) -> None:
    """Until nobody has called for that long."""
    seen = -1
    while seen != len(log.calls):
        seen = len(log.calls)
        await sleep(quiet_s)
