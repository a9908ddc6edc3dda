"""One way to connect, and one error for whatever a server or the way to it does wrong."""

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from httpqueue.errors import UnavailableError
from httpqueue.storage.connection import SOCKET_TIMEOUT_S, check_url, connect, redis_errors
from httpqueue.storage.scripts import Script
from httpqueue.storage.sentinel import parse_sentinel_url
from tests.support.frozen import closed_port
from tests.support.keys import QUEUE


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:6379/0", "rediss://127.0.0.1:6379", "unix:///tmp/valkey.sock"]
)
async def test_every_kind_of_url_has_the_same_timeouts(url: str) -> None:
    """A server that does not answer is away after SOCKET_TIMEOUT_S."""
    client = connect(url, Redis)
    arguments = client.connection_pool.connection_kwargs
    assert arguments["socket_timeout"] == SOCKET_TIMEOUT_S
    assert arguments["socket_connect_timeout"] == 2
    client.connection_pool.make_connection()  # type: ignore[no-untyped-call] # redis-py; takes the arguments
    await client.aclose()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ResponseError("OOM command not allowed"), "ResponseError: OOM command not allowed"),
        (RedisTimeoutError("Timeout reading"), "TimeoutError: Timeout reading"),
        (ConnectionResetError(104, "reset"), "ConnectionResetError: [Errno 104] reset"),
    ],
)
def test_foreign_errors_become_unavailable(error: Exception, message: str) -> None:
    """The message keeps what it was, the cause is the error itself."""
    with pytest.raises(UnavailableError) as caught, redis_errors():
        raise error
    assert str(caught.value) == message
    assert caught.value.__cause__ is error


def test_other_errors_stay_what_they_are() -> None:
    """A mistake of ours is no outage."""
    with pytest.raises(KeyError), redis_errors():
        raise KeyError("mistake")


async def test_a_script_on_a_server_that_is_away() -> None:
    """Says which error it was, and where."""
    with closed_port() as port:
        client = connect(f"redis://127.0.0.1:{port}", Redis)
        with pytest.raises(UnavailableError, match=rf"ConnectionError: .*127\.0\.0\.1:{port}"):
            await Script(client, "put", [QUEUE])(0, "", "")
        await client.aclose()


@pytest.mark.parametrize(
    ("url", "sentinels", "rest"),
    [
        ("redis+sentinel://a/timers", [("a", 26_379)], ("timers", 0, None, None)),
        ("redis+sentinel://a:1,[::1]:2,c/m/3", [("a", 1), ("::1", 2), ("c", 26_379)], ("m", 3, None, None)),
        ("redis+sentinel://u:p%40x@a:1/m", [("a", 1)], ("m", 0, "u", "p@x")),
        ("redis+sentinel://:p@a:1/m", [("a", 1)], ("m", 0, None, "p")),
    ],
)
async def test_sentinel_urls(url: str, sentinels: list[tuple[str, int]], rest: tuple[object, ...]) -> None:
    """Hosts and ports of the Sentinels, the primary's name, the db, user and password of the servers."""
    assert check_url(url) == url
    assert parse_sentinel_url(url) == (sentinels, *rest)
    client = connect(url, Redis)
    client.connection_pool.make_connection()  # type: ignore[no-untyped-call] # redis-py; takes the arguments
    await client.aclose()


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://a:1",
        "redis+sentinel://a:1/",
        "redis+sentinel:///m",
        "redis+sentinel://a:1,/m",
        "redis+sentinel://a:0/m",
        "redis+sentinel://a:65536/m",
        "redis+sentinel://a:x/m",
        "redis+sentinel://a:1/m/x",
        "redis+sentinel://a:1/m?db=1",
        "rediss+sentinel://a:1/m",
    ],
)
def test_bad_sentinel_urls(url: str) -> None:
    """The way to write one is in the message."""
    with pytest.raises(ValueError, match=r"redis\+sentinel://host:port,host:port,host:port/name\[/db\]"):
        check_url(url)


async def test_no_sentinel_answers() -> None:
    """It says whose primary nobody knows."""
    with closed_port() as port:
        client = connect(f"redis+sentinel://127.0.0.1:{port}/timers", Redis)
        with pytest.raises(UnavailableError, match="no Sentinel knows the primary of timers"), redis_errors():
            await client.ping()
        await client.aclose()
