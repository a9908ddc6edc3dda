"""Finds the primary of a Redis that Sentinels watch: redis+sentinel://[user:password@]a:1,b:2,c:3/name[/db].

A new connection asks the Sentinels, one after the other, and then the server itself whether it is the primary
(https://redis.io/docs/latest/develop/reference/sentinel-clients/). So after a failover, all that is needed is
that the connections to the old primary are dropped.
"""

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from httpqueue.storage.prompt import PromptPool, PromptTcp

SENTINEL_PORT: Final = 26_379
ASK_S: Final = 0.5
"""How long a Sentinel may take for its answer, in s."""

_URL: Final = re.compile(
    r"redis\+sentinel://(?:(?P<user>[^:@/]*)(?::(?P<password>[^@/]*))?@)?"
    r"(?P<hosts>[^@/?#]+)/(?P<name>[^/?#]+)(?:/(?P<db>[0-9]+))?"
)
_HOST: Final = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^:\[\]\s]+)(?::(?P<port>[0-9]{1,5}))?")


class SentinelUrl(NamedTuple):
    """What a redis+sentinel:// URL says. User, password and db are those of the servers."""

    sentinels: Sequence[tuple[str, int]]
    name: str
    db: int
    user: str | None
    password: str | None


def parse_sentinel_url(url: str) -> SentinelUrl | None:
    """None when this is no such URL."""
    match = _URL.fullmatch(url)
    if match is None:
        return None
    hosts = [_HOST.fullmatch(text) for text in match["hosts"].split(",")]
    sentinels = [(host["host"].strip("[]"), int(host["port"] or SENTINEL_PORT)) for host in hosts if host]
    if len(sentinels) < len(hosts) or not all(0 < port < 2**16 for _, port in sentinels):
        return None
    user, password = (unquote(text) if text else None for text in match.group("user", "password"))
    return SentinelUrl(sentinels, unquote(match["name"]), int(match["db"] or 0), user, password)


class SentinelConnection(PromptTcp):
    """A connection to the primary."""

    def __init__(self, *, primary: "Primary", **options: Any) -> None:
        super().__init__(**options)
        self._primary = primary

    async def _connect(self) -> None:
        self.host, self.port = await self._primary.find()
        await super()._connect()  # type: ignore[no-untyped-call] # redis-py

    async def on_connect(self) -> None:
        """Raises RedisError when the server is not, or no longer, the primary."""
        await super().on_connect()
        await self.send_command("ROLE", check_health=False)
        role, *_ = await self.read_response()
        if role != b"master":
            raise RedisConnectionError(f"{self.host}:{self.port} is not the primary")


class Primary:
    """Asks the Sentinels where the primary is."""

    def __init__(self, url: SentinelUrl) -> None:
        self._name = url.name
        self._sentinels = list(url.sentinels)

    async def find(self) -> tuple[str, int]:
        """Host and port. The Sentinel that answered is the first to be asked next time. Raises RedisError."""
        for sentinel in tuple(self._sentinels):
            address = await self._ask(*sentinel)
            if address is not None:
                self._sentinels.remove(sentinel)
                self._sentinels.insert(0, sentinel)
                return address
        raise RedisConnectionError(f"no Sentinel knows the primary of {self._name}")

    async def _ask(self, host: str, port: int) -> tuple[str, int] | None:
        client = Redis(host=host, port=port, socket_timeout=ASK_S, socket_connect_timeout=ASK_S)
        command = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name)
        with suppress(RedisError, OSError):
            async with asyncio.timeout(ASK_S), client:
                answer = await client.execute_command(*command)  # type: ignore[no-untyped-call] # redis-py
                if answer is not None:
                    return answer[0].decode(), int(answer[1])
        return None


def sentinel_pool(url: SentinelUrl, **options: Any) -> PromptPool:
    """A pool of connections to the primary."""
    return PromptPool(
        connection_class=SentinelConnection,
        primary=Primary(url),
        username=url.user,
        password=url.password,
        db=url.db,
        **options,
    )
