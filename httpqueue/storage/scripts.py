"""Loads and runs the Lua scripts.

A script's header names its keys, with the field names of keys.StoreKeys or keys.QueueKeys:

    -- KEYS    records, due, outbox

The script gets them in a table: keys.records, keys.due, keys.outbox. So no code depends on their order, and
a script that touches a key without naming it fails.
"""

import re
from functools import cache
from importlib.resources import files
from typing import Any, Final

import msgpack
from redis.asyncio import Redis

from httpqueue.storage.connection import redis_errors
from httpqueue.storage.keys import QueueKeys, StoreKeys

_KEYS: Final = re.compile(r"^-- KEYS +((?:.*,\n-- +)*.*)$", re.MULTILINE)
_UNNAMED: Final = (
    "setmetatable(keys, {__index = function(_, name) error('the script does not name its key ' .. name) end})"
)


class Script:
    """One script: common.lua, then a file of lua/. Run by its hash; sent when the server lacks it."""

    def __init__(self, redis: Redis, name: str, *known: StoreKeys | QueueKeys) -> None:
        text = _read(name)
        names = key_names(text)
        self._keys = [_key(key, known) for key in names]
        table = ", ".join(f"{key} = KEYS[{number}]" for number, key in enumerate(names, start=1))
        # On the same line as the beginning of common.lua, so that the line numbers of errors are right.
        prologue = f"local keys = {{{table}}} {_UNNAMED} "
        self._script = redis.register_script(prologue + _read("common") + text)

    async def __call__(self, *args: Any) -> Any:
        """Run the script. Its header says what it returns. Raises UnavailableError."""
        with redis_errors():
            return await self._script(keys=self._keys, args=args)


def key_names(text: str) -> list[str]:
    """The names of the keys in a script's header. Raises ValueError when it has no line KEYS."""
    match = _KEYS.search(text)
    if match is None:
        raise ValueError("the script's header has no line KEYS")
    return [name.strip(" -\n") for name in match[1].split(",")]


def pack(value: Any) -> bytes:
    """Encode an argument as MessagePack without the bin type, which cmsgpack in Redis does not know."""
    packed: bytes = msgpack.packb(value, use_bin_type=False)
    return packed


@cache
def _read(name: str) -> str:
    return files("httpqueue.storage").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")


def _key(name: str, known: tuple[StoreKeys | QueueKeys, ...]) -> str:
    for keys in known:
        if hasattr(keys, name):
            return str(getattr(keys, name))
    raise ValueError(f"there is no key {name}")
