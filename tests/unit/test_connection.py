"""One way to connect, and one error for whatever a server or the way to it does wrong."""

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from httpqueue.errors import UnavailableError
from httpqueue.storage.connection import SOCKET_TIMEOUT_S, connect, redis_errors
from httpqueue.storage.scripts import Script
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
