"""Every Redis key, on one page.

Every key of a timer has the hash tag of its partition, so that a transition touches one slot of a Redis
Cluster. A script's header names the keys that it touches (see scripts.py).
A comment `+ member` means: one key per member, which stands behind the prefix.
"""

import re
from dataclasses import dataclass
from typing import Final

from httpqueue.timers.commands import WakeUp
from httpqueue.timers.names import TimerName


@dataclass(frozen=True, slots=True)
class StoreKeys:
    """A partition's keys on the store's server. `member` is application:id, the name of a timer."""

    records: str  # + member  string: the record, or a pointer to the partition that has it (short, no name)
    pointers: str  # zset: member -> ms at which its pointer is checked: is there a record where it points to?
    due: str  # + application  zset: id -> due ms of its timers that wait for nothing but time
    held: str  # + application  zset: id -> due ms of its timers that run or wait for a lane, line or start
    ended: str  # + state letter:application  zset: id -> due ms of its ended timers that still have a record
    next: str  # zset: application -> the earliest due time in its due index, ms
    filled: str  # hash: application -> due ms:id; its due index is in the queue up to there
    running: str  # zset: member -> lease end of every running timer
    up: str  # hash: since -> up without a break since, ms; seen -> last called at, ms
    retention: str  # zset: member -> ms at which an ended timer's record is dropped
    outbox: str  # stream: changes that the relay has still to act on
    outbox_dead: str  # stream: outbox entries that nobody could read
    set_aside: str  # zset: member -> ms at which its record was found to be unreadable
    archive_layers: str  # + n  string: the bits of layer n of the Bloom filter
    archive_counts: str  # hash: layer n -> number of ids in it
    counts: (
        str  # hash: application:state letter -> number of timers; application:b -> bytes of their records;
    )
    #     :p -> number of timers that have not ended
    applications: str  # hash: application -> its ApplicationPolicy as JSON; all partitions have the same
    rates: str  # hash: application with a rate -> ms up to which its posts have used it
    reserved: (
        str  # + application  hash: token of a create call -> until when ms, timers and bytes it is to store
    )
    limited: str  # set: hosts that have a DestinationPolicy; all partitions have the same
    lanes: str  # + application:ordering key  zset: member -> due ms, or -inf when it has the turn
    lines: str  # + application  zset: member -> due ms of its timers that were due while it was paused
    waiting: str  # zset: member -> ms at which it is asked for whether its host still knows that it waits
    ending: str  # zset: recurring timer that a client ended while it runs -> how long it is kept then, ms
    requests: str  # + application:hash of an Idempotency-Key  string: what was answered, for a day
    confirmed: str  # string: written after a change that replicas have to confirm
    probes: str  # zset: lane:<lane> or application:<application> -> ms at which it is tried again


@dataclass(frozen=True, slots=True)
class QueueKeys:
    """A partition's keys on the queue's server, in arq's format. A wake-up id begins with the hash tag."""

    queue: str  # zset: wake-up id -> due ms (not before it was put)
    jobs: str  # + the rest of the wake-up id  string: arq's job definition
    epoch: str  # string: the queue's identity; when it changes, the queue lost its data


@dataclass(frozen=True, slots=True)
class HostKeys:
    """A destination host's own keys, on the store's server. All partitions share them.

    A wake-up stands here as wake_up_id writes it.
    """

    rules: str  # string: the host's DestinationPolicy as JSON; absent when it has none
    line: str  # zset: wake-up that waits for the host -> due ms; 0 when its worker was lost
    permits: str  # zset: wake-up that may be called -> lease end ms
    pace: str  # hash: last -> ms at which the rate let a call start; since -> ms at which the rules changed
    served: str  # string: ms at which somebody last served the line
    health: str  # hash: failures in a row, last_ms and result of the last call


@dataclass(frozen=True, slots=True)
class HostIndexKeys:
    """What lists destination hosts, on the store's server."""

    lines: str  # zset: host that may have a line or permits -> ms at which it is looked at next
    rules: str  # hash: host -> its DestinationPolicy as JSON; a copy is in the host's own slot
    called: str  # zset: host -> ms at which it was last called


@dataclass(frozen=True, slots=True)
class JobKeys:
    """The jobs of all applications, on the store's server."""

    jobs: str  # + id  hash: the job, see lua/job_add.lua
    open: str  # zset: id of a job that has not ended -> ms from which on any relay may take it
    open_of: str  # + application  hash: id, or kind of which one is open at most -> id of an open job


@dataclass(frozen=True, slots=True)
class AuditKeys:
    """The audit log, on the store's server."""

    timers: str  # stream: changes of timers; see storage/audit.py
    settings: str  # stream: changes that need the scope admin


STORE_FORMAT: Final = "2"
"""The format of the keys on this page: what the store's first use decided. See docs/adr/0024."""
RECORDS_OF_FORMAT_1: Final = ":timer:"
"""What stood between the tag and the member in the key of a record."""

API_KEYS: Final = "hq:api-keys"  # store, hash: SHA-256 of an API key -> its grant as JSON
API_KEYS_VERSION: Final = "hq:api-keys:version"  # store, string: how often an API key was created or revoked
ARCHIVE_MANIFEST: Final = "hq:archive"  # store, string: the Bloom filter's parameters, written once
FIRST_USE: Final = "hq:first-use"  # store, hash: name -> what was decided when the store was first used
ARQ_JOB_PREFIX: Final = "arq:job:"  # queue: + wake-up id, or another id of stock arq
OUTBOX_GROUP: Final = "relay"  # the consumer group of every outbox
OUTBOX_CHANNEL: Final = "hq:outbox"  # store, pub/sub: a partition whose outbox was empty has an entry now
WAKE_CHANNEL: Final = "hq:wake"  # queue, pub/sub: a partition in which a wake-up became the earliest
WORKERS: Final = "hq:workers"  # queue, zset: worker -> ms at which it last said that it is alive

_PREFIXES: Final = {
    "records": "",
    "due": ":due:",
    "held": ":held:",
    "ended": ":ended:",
    "outbox_dead": ":outbox:dead",
    "set_aside": ":set-aside",
    "archive_layers": ":archive:",
    "archive_counts": ":archive",
    "lanes": ":lane:",
    "lines": ":line:",
}
"""Fields whose key differs from the name of the field."""

_WAKE_UP_ID: Final = re.compile(r"\{(0|[1-9][0-9]{0,4})\}([^:]*):([^:]*):(0|[1-9][0-9]{0,15})", re.ASCII)
"""As wake_up_id writes it. A generation has at most 16 digits, because Lua counts up to 2**53."""


def store_keys(partition: int) -> StoreKeys:
    """The keys of a partition on the store's server."""
    tag = f"hq:{{{partition}}}"
    return StoreKeys(
        **{name: tag + _PREFIXES.get(name, f":{name}") for name in StoreKeys.__dataclass_fields__}
    )


def queue_keys(partition: int) -> QueueKeys:
    """The keys of a partition on the queue's server."""
    tag = f"{{{partition}}}"
    return QueueKeys(queue=f"arq:queue:{tag}", jobs=ARQ_JOB_PREFIX + tag, epoch=f"hq:{tag}:epoch")


def host_keys(host: str) -> HostKeys:
    """The keys of a destination host. They are all in one slot of a cluster."""
    return HostKeys(**{name: f"hq:{{host:{host}}}:{name}" for name in HostKeys.__dataclass_fields__})


def host_index_keys() -> HostIndexKeys:
    """The keys that list hosts. They are all in one slot of a cluster."""
    return HostIndexKeys(**{name: f"hq:{{hosts}}:{name}" for name in HostIndexKeys.__dataclass_fields__})


def job_keys() -> JobKeys:
    """The keys of jobs. They are all in one slot of a cluster."""
    names = {"jobs": "job:", "open_of": "open:"}
    return JobKeys(**{name: f"hq:{{jobs}}:{names.get(name, name)}" for name in JobKeys.__dataclass_fields__})


def audit_keys() -> AuditKeys:
    """The keys of the audit log. They are in one slot of a cluster."""
    return AuditKeys(**{name: f"hq:{{audit}}:{name}" for name in AuditKeys.__dataclass_fields__})


def member_of(name: TimerName) -> str:
    """application:id, a timer's name in the indices, the outbox and the record's key. No part has a colon."""
    return f"{name.application}:{name.id}"


def name_of(member: bytes) -> TimerName:
    """The inverse of member_of. Raises ValueError when it is no member."""
    application, timer_id = member.decode().split(":")
    return TimerName(application, timer_id)


def is_member(member: bytes) -> bool:
    """Whether name_of can read it. What it cannot read, somebody else wrote into an index."""
    try:
        name_of(member)
    except ValueError:
        return False
    return True


def wake_up_id(wake_up: WakeUp) -> str:
    """{partition}application:id:generation, the queue's entry for a wake-up."""
    return f"{{{wake_up.partition}}}{member_of(wake_up.name)}:{wake_up.generation}"


def parse_wake_up_id(wake_up_id: str) -> WakeUp | None:
    """The inverse of wake_up_id. None when it is no wake-up of httpqueue."""
    match = _WAKE_UP_ID.fullmatch(wake_up_id)
    if match is None:
        return None
    partition, application, timer_id, generation = match.groups()
    return WakeUp(TimerName(application, timer_id), int(generation), partition=int(partition))
