"""Every Redis key, on one page.

Every key of a timer has the hash tag of its partition, so that a transition touches one slot of a Redis
Cluster. There is one partition so far. A script's header names the keys that it touches (see scripts.py).
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

    records: str  # + member  string: the record, see lua/common.lua
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
    counts: str  # hash: application:state letter -> number of timers
    applications: str  # hash: application -> its ApplicationPolicy as JSON
    destinations: str  # hash: host -> its DestinationPolicy as JSON
    lanes: str  # + application:ordering key  zset: member -> due ms, or -inf when it has the turn
    lines: str  # + host:<host> or application:<application>  zset: member -> due ms
    waiting: str  # zset: member -> its reserved start, ms
    probes: (
        str  # zset: lane:<lane>, host:<host> or application:<application> -> ms at which it is tried again
    )
    permits: str  # + host  zset: member -> lease end; for hosts with a concurrency limit
    starts: str  # + host  zset: member -> its reserved start, ms; for hosts with a rate
    next_start: str  # + host  string: ms at which the next call may start; for hosts with a rate
    health: str  # hash: host -> MessagePack: failures in a row, last call ms, its result


@dataclass(frozen=True, slots=True)
class QueueKeys:
    """A partition's keys on the queue's server, in arq's format."""

    queue: str  # zset: wake-up id -> due ms (not before it was put)
    jobs: str  # + wake-up id  string: arq's job definition
    wake: str  # pub/sub channel: tells that a wake-up became the earliest
    workers: str  # zset: worker -> ms at which it last said that it is alive


API_KEYS: Final = "hq:api-keys"  # store, hash: SHA-256 of an API key -> its grant as JSON
ARCHIVE_MANIFEST: Final = "hq:archive"  # store, string: the Bloom filter's parameters, written once
EPOCH: Final = "hq:epoch"  # queue, string: the queue's identity; when it changes, the queue lost its data
FIRST_USE: Final = "hq:first-use"  # store, hash: name -> what was decided when the store was first used
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
"""Fields whose key differs from the name of the field."""

_GENERATION: Final = re.compile(
    r"0|[1-9][0-9]{0,15}"
)  # as wake_up_id writes it; at most 16 digits, because Lua counts up to 2**53


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
    """application:id, a timer's name in the indices, the outbox and the record's key. No part has a colon."""
    return f"{name.application}:{name.id}"


def name_of(member: bytes) -> TimerName:
    """The inverse of member_of. Raises ValueError when it is no member."""
    application, timer_id = member.decode().split(":")
    return TimerName(application, timer_id)


def wake_up_id(wake_up: WakeUp) -> str:
    """application:id:generation, the queue's entry for a wake-up."""
    return f"{member_of(wake_up.name)}:{wake_up.generation}"


def parse_wake_up_id(wake_up_id: str) -> WakeUp | None:
    """The inverse of wake_up_id. None when it is no wake-up of httpqueue."""
    member, _, generation = wake_up_id.rpartition(":")
    application, colon, timer_id = member.partition(":")
    if not colon or ":" in timer_id or not _GENERATION.fullmatch(generation):
        return None
    return WakeUp(TimerName(application, timer_id), int(generation))
