"""Every Redis key, on one page.

A timer's keys carry its partition's hash tag, so that every transition stays in one slot of a Redis Cluster.
There is one partition so far.
"""

import re

PARTITION = "{0}"

# --- on the store server ---
RECORD_PREFIX = f"hq:{PARTITION}:timer:"  # + app:id  string: the record, see lua/common.lua
DUE = f"hq:{PARTITION}:due"  # zset: app:id -> due ms of every unfinished timer
RUNNING = f"hq:{PARTITION}:running"  # zset: app:id -> lease end of every running timer
FINISHED = f"hq:{PARTITION}:finished"  # zset: app:id -> due ms of every finished timer that has a record
RETENTION = f"hq:{PARTITION}:retention"  # zset: app:id -> ms at which a finished timer's record goes
OUTBOX = f"hq:{PARTITION}:outbox"  # stream: changes the relay has still to act on
OUTBOX_DEAD = f"hq:{PARTITION}:outbox:dead"  # stream: outbox entries nobody could read
SET_ASIDE = f"hq:{PARTITION}:set-aside"  # zset: app:id -> ms at which its unreadable record was met
ARCHIVE_PREFIX = f"hq:{PARTITION}:archive:"  # + n  string: bits of the Bloom filter's layer n
ARCHIVE_COUNTS = f"hq:{PARTITION}:archive"  # hash: layer n -> ids in it
COUNTS = f"hq:{PARTITION}:counts"  # hash: app:state letter -> timers
APPLICATIONS = f"hq:{PARTITION}:applications"  # hash: application -> JSON: paused, retention, secrets
DESTINATIONS = f"hq:{PARTITION}:destinations"  # hash: host -> JSON: paused, rate per second, concurrency
LANE_PREFIX = (
    f"hq:{PARTITION}:lane:"  # + app:ordering key  zset: app:id -> due ms, -inf for the one whose turn it is
)
LINE_PREFIX = f"hq:{PARTITION}:line:"  # + host:<host> or application:<app>  zset: app:id -> due ms
WAITING = f"hq:{PARTITION}:waiting"  # zset: app:id -> ms of the slot it waits for, AT_LAST in a line
CALLS_PREFIX = f"hq:{PARTITION}:calls:"  # + host  zset: app:id -> lease end; hosts with a concurrency limit
RATE_PREFIX = f"hq:{PARTITION}:rate:"  # + host  string: ms at which its next call may start
SLOTS_PREFIX = f"hq:{PARTITION}:slots:"  # + host  zset: app:id -> ms at which its call may start
HEALTH = f"hq:{PARTITION}:health"  # hash: host -> MessagePack: what its last calls gave
API_KEYS = "hq:api-keys"  # hash: sha256 of the key -> JSON
ARCHIVE_MANIFEST = "hq:archive"  # string: the filter's parameters, written once

# --- on the queue server (arq's format) ---
QUEUE = f"arq:queue:{PARTITION}"  # zset: wake-up id -> due ms
JOB_PREFIX = "arq:job:"  # + wake-up id  string: arq's job definition
WAKE_CHANNEL = f"hq:{PARTITION}:wake"  # pub/sub: a wake-up became the earliest
WORKERS = f"hq:{PARTITION}:workers"  # zset: worker -> ms at which it was last seen
EPOCH = "hq:epoch"  # string: the queue's identity; gone or changed means that it lost its data

OUTBOX_GROUP = "relay"

_GENERATION = re.compile(r"0|[1-9][0-9]{0,15}")  # as wake_up_id writes it, within what Lua counts exactly


def member(application: str, timer_id: str) -> str:
    """A timer's name in the due index, the outbox and its record's key; neither part has a colon."""
    return f"{application}:{timer_id}"


def wake_up_id(member: str, generation: int) -> str:
    """The queue's entry for (timer, generation)."""
    return f"{member}:{generation}"


def parse_wake_up_id(wake_up_id: str) -> tuple[str, int] | None:
    """(member, generation), or None for an entry that is not ours."""
    member, _, generation = wake_up_id.rpartition(":")
    if member.count(":") != 1 or not _GENERATION.fullmatch(generation):
        return None
    return member, int(generation)
