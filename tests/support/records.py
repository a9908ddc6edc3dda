"""Records as lua/common.lua lays them out, sound or damaged, for tests that write them into Redis."""

import json
from pathlib import Path
from typing import Any

import msgpack

from httpqueue.storage.record import FORMAT


def old_store() -> list[list[bytes]]:
    """The commands that rebuild a store that the last commit before formats had numbers wrote."""
    path = Path(__file__).with_name("store_of_format_1.json")
    return [[word.encode("latin-1") for word in words] for words in json.loads(path.read_text())["commands"]]


def pack_values(*values: object) -> bytes:
    """One MessagePack value after the other, without the bin type, which Redis' cmsgpack does not know."""
    return b"".join(msgpack.packb(value, use_bin_type=False) for value in values)


def encode_record(  # noqa: PLR0913 - as many as a head has
    *rest: Any,
    version: Any = FORMAT,
    state: Any = b"s",
    generation: Any = 0,
    attempts: Any = 0,
    lost: Any = 0,
    due_ms: Any = 1,
    timeout_ms: Any = 0,
    lane: Any = b"",
    host: Any = b"receiver",
    nonce: Any = b"nonce",
    holder: Any = b"",
) -> bytes:
    """A record with this head; rest is its spec and the attempts, encoded. Any value may be a wrong one."""
    return pack_values(
        version, state, generation, attempts, lost, due_ms, timeout_ms, lane, host, nonce, holder, *rest
    )
