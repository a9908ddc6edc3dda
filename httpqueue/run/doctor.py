"""`httpqueue doctor`: looks at servers, settings and every timer, says what is wrong, and mends it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from httpqueue.errors import UnavailableError
from httpqueue.settings import Settings, variable
from httpqueue.storage.inspection import PAGE, Inspection
from httpqueue.storage.keys import STORE_FORMAT, is_member, name_of
from httpqueue.storage.partitions import MAX_PARTITIONS, Partitions
from httpqueue.storage.queue import Queue, open_queue
from httpqueue.storage.storage import Storage, open_storage
from httpqueue.timers.checkup import (
    OVERDUE_MS,
    Fault,
    Finding,
    Findings,
    Kind,
    Seen,
    Server,
    is_repairable,
    judge_clocks,
    judge_place,
    judge_server,
    judge_timer,
    label,
)
from httpqueue.timers.commands import WakeUp

Key = tuple[int, bytes]
"""The partition and the member of a timer."""

MENDED: Final = (Fault.MISPLACED, Fault.DANGLING, Fault.DAMAGED)
"""What Inspection.mend puts right."""


@dataclass(slots=True)
class Report:
    """What was seen. `timers`: how many records there are, by state or kind."""

    servers: list[Server]
    partitions: int
    has_repaired: bool
    """What could be repaired is."""
    timers: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Nothing was found, or all of it is repaired."""
        return not any(finding.is_left for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """The output of `--json`."""
        return {
            "clean": self.is_clean,
            "servers": [
                {
                    "role": each.role,
                    "product": each.product,
                    "version": each.version,
                    "used_bytes": each.used_bytes,
                    "max_bytes": each.max_bytes,
                    "persistence": each.persistence or None,
                    "ahead_ms": each.ahead_ms,
                }
                for each in self.servers
            ],
            "partitions": self.partitions,
            "timers": self.timers,
            "findings": [finding.as_json() for finding in self.findings],
        }

    def as_text(self) -> list[str]:
        """Lines for people."""
        lines = [
            f"{each.role:8}{each.product} {each.version}, {each.used_bytes / 1e6:,.1f} MB,"
            f" {each.persistence or 'nothing on disk'}, clock {each.ahead_ms:+} ms"
            for each in self.servers
        ]
        if len(self.servers) == 1:
            lines.append("queue   on the store's server")
        timers = ", ".join(f"{count:,} {name}" for name, count in sorted(self.timers.items()))
        where = "1 partition" if self.partitions == 1 else f"{self.partitions} partitions"
        lines.append(f"timers  {timers or 'none'}, in {where}")
        for finding in self.findings:
            lines += ["", f"{finding.fault.value} ({finding.count:,}): {finding.text}"]
            more = finding.count - len(finding.examples)
            lines += [f"    {example}" for example in finding.examples]
            lines += [f"    and {more:,} more"] if more else []
            if finding.repaired:
                lines.append(f"    repaired: {finding.repaired:,}")
            elif finding.repair and not self.has_repaired:
                lines.append(f"    --repair would: {finding.repair}")
        return [*lines, "", "Nothing is wrong." if not self.findings else self._verdict()]

    def _verdict(self) -> str:
        if self.is_clean:
            return "All of it is repaired."
        can_be_repaired = not self.has_repaired and any(each.repair for each in self.findings)
        return "Run `httpqueue doctor --repair`." if can_be_repaired else "What is left, a person must do."


async def examine(settings: Settings, store_url: str, *, repair: bool) -> Report:
    """Look at everything, and repair it if asked. Raises UnavailableError that names the server."""
    queue_url = settings.broker_redis_url or store_url
    async with _open(settings, store_url, queue_url) as (storage, queue, decided):
        async with _named("store"):
            servers = [await storage.inspection.server()]
        async with _named("queue"):
            await queue.ping()
            if queue_url != store_url:
                servers.append(await queue.server())
        report = Report(servers, storage.partitions.count, repair)
        findings = Findings()
        if decided not in {None, str(settings.partitions)}:
            findings.add(
                Fault.SETTINGS, f"{variable('partitions')} is {settings.partitions}, this store has {decided}"
            )
        if await _has_other_format(storage, findings, repair=repair):
            report.findings = findings.all()
            return report
        report.timers = await Doctor(storage, queue, settings, findings, repair=repair).run(servers)
        report.findings = findings.all()
        return report


async def _has_other_format(storage: Storage, findings: Findings, *, repair: bool) -> bool:
    """Whether the store has another format, which nobody repairs."""
    known = await storage.format()
    if known in {None, STORE_FORMAT}:
        return False
    findings.add(Fault.FORMAT, f"it has format {known}, this httpqueue has {STORE_FORMAT}")
    if not repair or known != "1":
        return True
    await storage.inspection.upgrade()
    findings.note_repaired(Fault.FORMAT)
    return False


@asynccontextmanager
async def _open(
    settings: Settings, store_url: str, queue_url: str
) -> AsyncIterator[tuple[Storage, Queue, str | None]]:
    """Store and queue with as many partitions as the store has, and that number as the store knows it."""
    rate = settings.archive_error_rate
    async with open_storage(store_url, archive_error_rate=rate) as first, _named("store"):
        decided = await first.first_use.read("partitions")
    is_number = decided is not None and decided.isdecimal() and 0 < int(decided) <= MAX_PARTITIONS
    partitions = Partitions(int(decided) if decided and is_number else settings.partitions)
    async with (
        open_storage(store_url, archive_error_rate=rate, partitions=partitions) as storage,
        open_queue(queue_url, partitions=partitions) as queue,
    ):
        yield storage, queue, decided


@asynccontextmanager
async def _named(role: str) -> AsyncIterator[None]:
    try:
        yield
    except UnavailableError as error:
        raise UnavailableError(f"the {role}'s server does not answer: {error}") from error


class Doctor:
    """Examines one store and its queue. What it finds it adds to `findings`."""

    def __init__(
        self, storage: Storage, queue: Queue, settings: Settings, findings: Findings, *, repair: bool
    ) -> None:
        self._storage = storage
        self._inspection: Inspection = storage.inspection
        self._partitions = storage.partitions
        self._queue = queue
        self._settings = settings
        self._findings = findings
        self._repair = repair
        self._told: set[Key] = set()
        """Timers that were found once already."""
        self._timers: dict[str, int] = {}

    async def run(self, servers: Sequence[Server]) -> dict[str, int]:
        """Look at everything. Returns how many records there are by state or kind."""
        for server in servers:
            self._findings.add_all(
                Fault.UNSAFE_SERVER, judge_server(server, needs_disk=server.role == "store")
            )
        self._findings.add_all(Fault.CLOCKS, judge_clocks(servers))
        await self._look_at_settings()
        await self._look_at_queue()
        await self._look_at_outbox()
        await self._look_at_policies()
        await self._look_at_timers()
        await self._look_at_counts()
        return self._timers

    async def _look_at_settings(self) -> None:
        other = await self._storage.other_archive()
        if other is not None:
            rate = self._settings.archive_error_rate
            name = variable("archive_error_rate")
            self._findings.add(Fault.SETTINGS, f"{name} is {rate}, the archive of this store has {other}")

    async def _look_at_queue(self) -> None:
        epochs = await self._queue.known_epochs()
        for partition, filled in enumerate(await self._inspection.filled_epochs()):
            if filled is not None and filled != epochs[partition]:
                self._findings.add(Fault.EPOCH, f"partition {partition}")
        for partition in self._partitions.all:
            self._findings.add_all(Fault.QUEUE, await self._queue.unreadable(partition))

    async def _look_at_outbox(self) -> None:
        for partition, state in enumerate(await self._storage.outbox.states()):
            if state.age_ms > OVERDUE_MS:
                self._findings.add_all(Fault.RELAY, [f"partition {partition}"] * state.length)
            self._findings.add_all(
                Fault.DEAD_ENTRIES, (f"partition {partition}: {each}" for each in state.dead)
            )

    async def _look_at_policies(self) -> None:
        torn = await self._storage.policies.torn()
        found = [f"application {name}" for name in torn.applications]
        found += [f"destination {host}" for host in torn.hosts]
        self._findings.add_all(Fault.POLICIES, found)
        if found and self._repair:
            await self._storage.policies.mend()
            self._findings.note_repaired(Fault.POLICIES, len(found))

    async def _look_at_counts(self) -> None:
        """This comes last: mended timers are counted, too."""
        for partition in self._partitions.all:
            found = await self._inspection.tally(partition, is_to_mend=self._repair)
            self._findings.add_all(Fault.COUNTS, (f"{name} in partition {partition}" for name in found))
            if found and self._repair:
                self._findings.note_repaired(Fault.COUNTS, len(found))

    # --- timers ---

    async def _look_at_timers(self) -> None:
        indices, hosts = [], set()
        async for page in self._inspection.pages():
            self._findings.add_all(Fault.PARTITIONS, page.strange)
            indices += page.indices
            hosts |= page.hosts
            for start in range(0, len(page.timers), PAGE):
                seen = await self._inspection.look(page.timers[start : start + PAGE])
                for each in seen:
                    name = each.state.value if each.state and each.kind is Kind.TIMER else each.kind.value
                    self._timers[name] = self._timers.get(name, 0) + 1
                await self._judge(seen)
        for index in indices:
            async for entries in self._inspection.entries(index):
                await self._judge(await self._inspection.look(entries))
        await self._look_at_hosts(sorted(hosts))

    async def _look_at_hosts(self, hosts: Sequence[str]) -> None:
        neglected = await self._storage.hosts.neglected(hosts)
        self._findings.add_all(Fault.HOSTS, neglected)
        if neglected and self._repair:
            await self._storage.hosts.look_soon_at(neglected)
            self._findings.note_repaired(Fault.HOSTS, len(neglected))

    async def _judge(self, looked_at: Sequence[Seen]) -> None:
        first = await self._faults(looked_at)
        if not first:
            return
        # Between two questions timers move. What is still so when they are asked again is no accident.
        again = await self._faults(await self._inspection.look(list(first)))
        for fault in Fault:
            certain = [
                seen
                for key, (other, seen) in again.items()
                if other is fault and key not in self._told and first[key][0] is fault
            ]
            self._told |= {(seen.partition, seen.member) for seen in certain}
            self._findings.add_all(fault, (label(seen.member) for seen in certain))
            if self._repair and certain:
                self._findings.note_repaired(fault, await self._mend(fault, certain))

    async def _faults(self, looked_at: Sequence[Seen]) -> dict[Key, tuple[Fault, Seen]]:
        """What is wrong, at most one thing about each timer."""
        found = {
            (seen.partition, seen.member): (fault, seen)
            for seen in looked_at
            if (fault := judge_timer(seen)) is not None
        }
        found |= await self._misled([seen for seen in looked_at if seen.kind is Kind.POINTER])
        sound = [seen for seen in looked_at if seen.kind is Kind.TIMER and is_member(seen.member)]
        for key, value in (await self._away([each for each in sound if not self._is_home(each)])).items():
            found.setdefault(key, value)
        overdue = [
            seen for fault, seen in found.values() if fault is Fault.OVERDUE and is_member(seen.member)
        ]
        lost = {seen.member for seen in await self._not_in_queue(overdue)}
        return {
            key: (fault, seen)
            for key, (fault, seen) in found.items()
            if fault is not Fault.OVERDUE or seen.member in lost
        }

    def _is_home(self, seen: Seen) -> bool:
        name = name_of(seen.member)
        home = self._partitions.home_of(name)
        return seen.partition == home == self._partitions.place_of(name, seen.lane)

    async def _away(self, away: Sequence[Seen]) -> dict[Key, tuple[Fault, Seen]]:
        """Of timers that are not in the partition of their names."""
        pointers = await self._inspection.pointers([seen.member for seen in away]) if away else {}
        found = {}
        for seen in away:
            name = name_of(seen.member)
            fault = judge_place(
                seen,
                home=self._partitions.home_of(name),
                own=self._partitions.place_of(name, seen.lane),
                pointer=pointers[seen.member],
            )
            if fault is not None:
                found[seen.partition, seen.member] = (fault, seen)
        return found

    async def _misled(self, pointers: Sequence[Seen]) -> dict[Key, tuple[Fault, Seen]]:
        """Of pointers to no record that heal will not look at either."""
        forgotten = [seen for seen in pointers if seen.checked is None]
        # One that points to its own partition points to itself: that is no record.
        places = [
            (-1 if seen.points_to == seen.partition else seen.points_to, seen.member) for seen in forgotten
        ]
        have_records = await self._inspection.have_records(places) if places else []
        return {
            (seen.partition, seen.member): (Fault.POINTERS, seen)
            for seen, has_record in zip(forgotten, have_records, strict=True)
            if not has_record
        }

    async def _not_in_queue(self, overdue: Sequence[Seen]) -> list[Seen]:
        """Those that nothing holds back and that the queue does not have."""
        if not overdue:
            return []
        applications = await self._storage.policies.applications()
        paused = {application.name for application in applications if application.policy.paused}
        wake_ups = {
            _wake_up(seen): seen for seen in overdue if name_of(seen.member).application not in paused
        }
        return [wake_ups[wake_up] for wake_up in await self._queue.missing(list(wake_ups))]

    async def _mend(self, fault: Fault, certain: Sequence[Seen]) -> int:
        """Mend these. Returns how many of them are right now."""
        if fault in MENDED:
            parts: dict[int, list[bytes]] = {}
            for seen in certain:
                if is_repairable(seen, fault):
                    parts.setdefault(seen.partition, []).append(seen.member)
            for partition, members in parts.items():
                await self._inspection.mend(
                    partition,
                    members,
                    done_ms=self._settings.retention_done_ms,
                    failed_ms=self._settings.retention_failed_ms,
                )
            return 0 if fault is Fault.DAMAGED else len(certain)
        if fault is Fault.OVERDUE:
            await self._queue.put([_wake_up(seen) for seen in certain])
            return len(certain)
        if fault is Fault.UNFINDABLE:
            pointed = [
                await self._storage.store.point(name_of(seen.member), seen.partition, seen.nonce)
                for seen in certain
            ]
            return sum(pointed)
        if fault is Fault.POINTERS:
            for seen in certain:
                await self._storage.retention.drop_pointer(seen.partition, seen.member, seen.nonce)
            return len(certain)
        return 0


def _wake_up(seen: Seen) -> WakeUp:
    return WakeUp(name_of(seen.member), seen.generation, seen.due_ms, seen.partition)
