"""The API keys as this process knows them: held in memory, so that a request asks Redis for nothing.

A revoked key ends within FRESH_S. While Redis is away, the API keys that were known last stay valid.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from math import inf
from typing import Final

import structlog

from httpqueue import clock
from httpqueue.errors import UnavailableError
from httpqueue.timers.access import Grant, Scope, hash_key

FRESH_S: Final = 1.0
"""API keys older than this are loaded again."""
RELOAD_GAP_S: Final = 0.1
"""Unknown API keys and failed loads also make the process load again, but not more often than this."""
LOAD_WITHIN_S: Final = 0.5
"""A request waits for this, and then for its own answer. Both together take less than 6 s."""

Load = Callable[[], Awaitable[Mapping[str, Grant | None]]]
"""Loads all API keys: hash_key(api_key) -> what it permits.

None instead of a grant: the stored grant cannot be read, so the API key permits nothing. Raises
UnavailableError.
"""

log = structlog.get_logger()


class KeyRing:
    """All API keys, and what each of them permits.

    They are looked up by their hash. The time of a lookup may tell something about hashes, but nothing about
    API keys: nobody can choose an API key whose hash begins like a stored one.
    """

    def __init__(self, load: Load, *, fixed_key: str | None = None, is_required: bool = False) -> None:
        """fixed_key: the API key from the environment, if there is one; it may do everything.

        is_required: everybody needs an API key, even while there is none.
        """
        self._load = load
        self._is_required = is_required or fixed_key is not None
        self._fixed = {hash_key(fixed_key): Grant("environment", None, Scope.ADMIN)} if fixed_key else {}
        self._grants: Mapping[str, Grant | None] | None = None
        self._failure: str | None = None
        self._asked_s = -inf
        self._asking = asyncio.Lock()

    async def are_required(self) -> bool:
        """Whether everybody needs an API key; raises UnavailableError if no load ever succeeded.

        Once this process has seen an API key, it is so until it ends: a server that lost its data, or was
        replaced by an empty one, must not open the API to all.
        """
        if not self._is_required:
            await self._current()
        return self._is_required

    async def exist(self) -> bool:
        """Whether there is any API key now; raises UnavailableError if no load ever succeeded."""
        return bool(self._fixed) or bool(await self._current())

    async def find(self, api_key: str) -> Grant | None:
        """What the API key permits; None if it is unknown, even to a load that began after this call did.

        Raises UnavailableError if no load ever succeeded.
        """
        called_s, digest = clock.monotonic_s(), hash_key(api_key)
        known = self._fixed.get(digest) or (await self._current()).get(digest)
        return known or (await self._loaded_since(called_s)).get(digest)

    async def _current(self) -> Mapping[str, Grant | None]:
        now_s = clock.monotonic_s()
        if self._grants is None:
            return await self._loaded_since(now_s - RELOAD_GAP_S)
        if now_s - self._asked_s < FRESH_S or self._asking.locked():
            return self._grants
        return await self._loaded_since(now_s - FRESH_S)

    async def _loaded_since(self, instant_s: float) -> Mapping[str, Grant | None]:
        """The API keys of a load that began after instant_s; all who wait share one load, or its failure."""
        async with self._asking:
            if self._asked_s <= instant_s:
                gap_s = self._asked_s + RELOAD_GAP_S - clock.monotonic_s()
                if self._is_required and gap_s > 0:  # while the API is open to all, there is nothing to guess
                    await clock.sleep(gap_s)
                await self._reload()
        if self._grants is None:
            raise UnavailableError(self._failure)
        return self._grants

    async def _reload(self) -> None:
        self._asked_s = clock.monotonic_s()
        try:
            async with asyncio.timeout(LOAD_WITHIN_S):
                self._grants = await self._load()
        except (UnavailableError, TimeoutError) as error:
            if self._failure is None:
                log.warning("auth.keys_not_renewed", reason=str(error) or "Redis did not answer in time")
            self._failure = str(error) or "Redis did not answer in time"
        else:
            self._failure = None
            self._is_required = self._is_required or bool(self._grants)
