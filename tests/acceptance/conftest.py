"""What acceptance tests share."""

import pytest
from redis import Redis


@pytest.fixture(autouse=True)
def empty_server(request: pytest.FixtureRequest) -> None:
    """Processes of an earlier test left nothing on the shared server: no key, no limit, no timer."""
    if "valkey_server" in request.fixturenames:
        with Redis.from_url(request.getfixturevalue("valkey_server").url) as redis:
            redis.flushall()
