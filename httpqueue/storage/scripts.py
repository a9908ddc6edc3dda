"""Loads and runs the Lua scripts.

A script's header names its keys, with the field names of the classes in keys.py:

    -- KEYS    records, due, outbox

The script gets them in a table: keys.records, keys.due, keys.outbox. So no code depends on their order, and
a script that touches a key without naming it fails.
"""

import re
from collections.abc import Sequence
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any, Final

import msgpack
from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from httpqueue.clock import StoreNow
from httpqueue.errors import RefusedError
from httpqueue.storage.connection import redis_errors
from httpqueue.storage.keys import AuditKeys, HostIndexKeys, HostKeys, JobKeys, QueueKeys, StoreKeys

_KEYS: Final = re.compile(r"^-- KEYS +((?:.*,\n-- +)*.*)$", re.MULTILINE)
WAIT_MS: Final = 1_000
"""How long replicas may take to confirm a change."""
Known = StoreKeys | QueueKeys | HostKeys | HostIndexKeys | JobKeys | AuditKeys
_UNNAMED: Final = (
    "setmetatable(keys, {__index = function(_, name) error('the script does not name its key ' .. name) end})"
)


class Script:
    """One script: common.lua, then a file of lua/. Run by its hash; sent when the server lacks it."""

    def __init__(self, redis: Redis, name: str, *known: Sequence[Known], replicas: int = 0) -> None:
        """known: the keys of each partition; of the only one, where there are none.

        replicas: how many replicas have to confirm what the script wrote.
        """
        text, names = _with_keys(name)
        self._redis = redis
        self._replicas = replicas
        self._confirmed = (
            [_key("confirmed", of_partition) for of_partition in zip(*known, strict=True)] if replicas else []
        )
        self._keys = [[_key(key, of_partition) for key in names] for of_partition in zip(*known, strict=True)]
        self._script = redis.register_script(text)

    async def __call__(self, partition: int, *args: Any) -> Any:
        """Run the script in a partition. Its header says what it returns. Raises UnavailableError."""
        with redis_errors():
            if self._replicas:
                return await self._run_and_wait(partition, args)
            return await self._script(keys=self._keys[partition], args=args)

    async def _run_and_wait(self, partition: int, args: Sequence[Any]) -> Any:
        """Run the script, and wait for the replicas. Raises RefusedError when too few confirm it.

        WAIT is for what its own connection has written last. The script may find all done, because the answer
        to an earlier call was lost; so there is a write after it that always has to be confirmed.
        """
        keys = self._keys[partition]
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.execute_command("EVALSHA", self._script.sha, len(keys), *keys, *args)
        pipeline.set(self._confirmed[partition], "")
        pipeline.execute_command("WAIT", self._replicas, WAIT_MS)
        answer, _, count = answers = await pipeline.execute(raise_on_error=False)
        if isinstance(answer, NoScriptError):
            await self._redis.script_load(self._script.script)
            return await self._run_and_wait(partition, args)
        for each in answers:
            if isinstance(each, Exception):
                raise each
        if count < self._replicas:
            raise RefusedError(f"{count} of {self._replicas} replicas confirmed the change")
        return answer


class PipelinedScript:
    """A script whose keys differ by call. Many calls are one round trip."""

    def __init__(self, redis: Redis, name: str) -> None:
        self._redis = redis
        self._text, self._names = _with_keys(name)
        self._hash = sha1(self._text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, calls: Sequence[tuple[Known, Sequence[Any]]]) -> list[Any]:
        """Run it with these keys and arguments, in one pipeline. The answers are in the same order.

        Raises UnavailableError. Some of the calls may have succeeded then.
        """
        with redis_errors():
            answers = await self._run(calls)
            unknown = [number for number, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
            if unknown:
                await self._redis.script_load(self._text)
                again = await self._run([calls[number] for number in unknown])
                for number, answer in zip(unknown, again, strict=True):
                    answers[number] = answer
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
        return answers

    async def _run(self, calls: Sequence[tuple[Known, Sequence[Any]]]) -> list[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for known, args in calls:
            keys = [_key(name, (known,)) for name in self._names]
            # Not pipeline.evalsha: the pipeline of redis-py's cluster client refuses that method.
            pipeline.execute_command("EVALSHA", self._hash, len(keys), *keys, *args)
        answers: list[Any] = await pipeline.execute(raise_on_error=False)
        return answers


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


def script_now(now: StoreNow) -> int | str:
    """What a script takes for now: ms since the epoch, or '' for the server's time."""
    now_ms = now()
    return "" if now_ms is None else now_ms


@cache
def _read(name: str) -> str:
    return files("httpqueue.storage").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")


def _with_keys(name: str) -> tuple[str, list[str]]:
    """The whole text of a script, and the names of its keys in the order of KEYS."""
    text = _read(name)
    names = key_names(text)
    table = ", ".join(f"{key} = KEYS[{number}]" for number, key in enumerate(names, start=1))
    # On the same line as the beginning of common.lua, so that the line numbers of errors are right.
    return f"local keys = {{{table}}} {_UNNAMED} {_read('common')}{text}", names


def _key(name: str, known: Sequence[Known]) -> str:
    for keys in known:
        if hasattr(keys, name):
            return str(getattr(keys, name))
    raise ValueError(f"there is no key {name}")
