"""Every Redis key, on one page.

A timer's keys carry its partition's hash tag, so that every transition stays in one slot of a Redis Cluster.
There is one partition so far. Scripts name the keys that they touch in their headers (see scripts.py).
"""

import re
from dataclasses import dataclass
from typing import Final

from httpqueue.timers.commands import WakeUp
from httpqueue.timers.names import TimerName


@dataclass(frozen=True, slots=True)
class StoreKeys:
    """A partition's keys on the store's server. `member` is application:id, a timer's name in all of them."""

    records: str  # + member  string: the record, see lua/common.lua
    due: str  # + application  zset: id -> due ms of its timers that wait for nothing but time
    held: str  # + application  zset: id -> due ms of those that run, or wait for a lane, a line or a start
    ended: str  # + state letter:application  zset: id -> due ms of those that have ended and have a record
    next: str  # zset: application -> the earliest of its due index, ms
    filled: str  # hash: application -> due ms:id, up to which its due index was put into the queue
    running: str  # zset: member -> lease end of every running timer
    up: str  # hash: since when the store is up without a break, and when it was last asked, ms
    retention: str  # zset: member -> ms at which an ended timer's record goes
    outbox: str  # stream: changes the relay has still to act on
    outbox_dead: str  # stream: outbox entries nobody could read
    set_aside: str  # zset: member -> ms at which its unreadable record was met
    archive_layers: str  # + n  string: bits of the Bloom filter's layer n
    archive_counts: str  # hash: layer n -> ids in it
    counts: str  # hash: application:state letter -> timers
    applications: str  # hash: application -> JSON: its ApplicationPolicy
    destinations: str  # hash: host -> JSON: its DestinationPolicy
    lanes: str  # + application:ordering key  zset: member -> due ms, -inf for the one whose turn it is
    lines: str  # + host:<host> or application:<application>  zset: member -> due ms
    waiting: str  # zset: member -> its reserved start, ms
    probes: (
        str  # zset: lane:<lane>, host:<host> or application:<application> -> ms at which it is tried again
    )
    permits: str  # + host  zset: member -> lease end; for hosts with a concurrency limit
    starts: str  # + host  zset: member -> its reserved start, ms; for hosts with a rate
    next_start: str  # + host  string: ms at which the next call may start; for hosts with a rate
    health: str  # hash: host -> MessagePack: what its last calls gave


@dataclass(frozen=True, slots=True)
class QueueKeys:
    """A partition's keys on the queue's server, in arq's format."""

    queue: str  # zset: wake-up id -> due ms
    jobs: str  # + wake-up id  string: arq's job definition
    wake: str  # pub/sub channel: a wake-up became the earliest
    workers: str  # zset: worker -> ms at which it was last seen


API_KEYS: Final = "hq:api-keys"  # store, hash: sha256 of an API key -> JSON: its grant
ARCHIVE_MANIFEST: Final = "hq:archive"  # store, string: the filter's parameters, written once
EPOCH: Final = "hq:epoch"  # queue, string: the queue's identity; gone or changed means that it lost its data
OUTBOX_GROUP: Final = "relay"  # the consumer group of every outbox

_PREFIXES: Final = {
    "records": "timer:",
    "due": "due:",
    "held": "held:",
    "ended": "ended:",
    "outbox_dead": "outbox:dead",
    "set_aside": "set-aside",
    "archive_layers": "archive:",
    "archive_counts": "archive",
    "lanes": "lane:",
    "lines": "line:",
    "permits": "permits:",
    "starts": "starts:",
    "next_start": "next-start:",
}
"""Keys that are not written as their field is called."""

_GENERATION: Final = re.compile(
    r"0|[1-9][0-9]{0,15}"
)  # as wake_up_id writes it, within what Lua counts exactly


def store_keys(partition: int = 0) -> StoreKeys:
    """The keys of a partition on the store's server."""
    return StoreKeys(
        **{name: f"hq:{{{partition}}}:{_PREFIXES.get(name, name)}" for name in StoreKeys.__dataclass_fields__}
    )


def queue_keys(partition: int = 0) -> QueueKeys:
    """The keys of a partition on the queue's server."""
    tag = f"{{{partition}}}"
    return QueueKeys(
        queue=f"arq:queue:{tag}", jobs="arq:job:", wake=f"hq:{tag}:wake", workers=f"hq:{tag}:workers"
    )


def member_of(name: TimerName) -> str:
    """A timer's name in the indices, the outbox and its record's key; neither part has a colon."""
    return f"{name.application}:{name.id}"


def name_of(member: bytes) -> TimerName:
    """The inverse of member_of; raises ValueError for anything else."""
    application, timer_id = member.decode().split(":")
    return TimerName(application, timer_id)


def wake_up_id(wake_up: WakeUp) -> str:
    """The queue's entry for (timer, generation)."""
    return f"{member_of(wake_up.name)}:{wake_up.generation}"


def parse_wake_up_id(wake_up_id: str) -> WakeUp | None:
    """The inverse of wake_up_id; None for an entry that is not ours."""
    member, _, generation = wake_up_id.rpartition(":")
    application, colon, timer_id = member.partition(":")
    if not colon or ":" in timer_id or not _GENERATION.fullmatch(generation):
        return None
    return WakeUp(TimerName(application, timer_id), int(generation))
