"""Requests made from the OpenAPI document by one tenant (and by nobody), about what another tenant has.

No answer has anything of the other's, no 5xx, and nothing of the other's changes (issue 11, "Fuzz").
Derandomized: each run sends the same. It breaks no process, but takes too long for `make test`.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from zlib import crc32

import hypothesis
import pytest
import schemathesis
from redis.asyncio import Redis
from schemathesis.core.transport import Response

from httpqueue import clock
from httpqueue.api.schema.field_checks import is_id
from httpqueue.api.schema.operations import OPERATIONS
from httpqueue.storage.embedded import EmbeddedValkey
from httpqueue.storage.storage import Storage
from httpqueue.timers.access import Grant, Scope
from httpqueue.timers.timer import State
from tests.integration.test_schemathesis import Server, schema
from tests.support.api_lab import Lab
from tests.support.frozen import FrozenTime
from tests.support.keys import PARTITIONS

BLUE: Final = "blue"
SECRET: Final = "swordfish"
"""It is in everything that the other tenant has, and in no request."""
OPEN: Final = {(operation.method, operation.path) for operation in OPERATIONS if operation.is_open}
few = hypothesis.settings(
    max_examples=3,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[hypothesis.Phase.generate],
    suppress_health_check=list(hypothesis.HealthCheck),
)


@dataclass
class Town:
    """A server with two tenants: red with a key, and blue with a timer in each state."""

    server: Server
    red_key: str
    blue_ids: list[str]


async def settle(url: str) -> tuple[str, list[str], dict[str, Any]]:
    """(red's key, the ids of blue's timers, blue's timers)."""
    async with Redis.from_url(url) as redis:
        await redis.flushall()
        storage = Storage(redis, archive_error_rate=1e-6, partitions=PARTITIONS)
        lab = Lab(redis, storage.store, FrozenTime(clock.now_ms()))
        ids = []
        for state in State:
            ids.append(f"{state.value}-{BLUE}")
            await lab.bring(
                ids[-1],
                State.SCHEDULED if state is State.CANCELLED else state,
                application=BLUE,
                body={"secret": SECRET},
                labels={"secret": SECRET},
                callback={"url": f"http://{SECRET}.example/"},
            )
        red_key = await storage.api_keys.create(Grant("red", "red", Scope.ADMIN))
        await lab.client.aclose()
    return red_key, ids, await blue_timers(url)


async def blue_timers(url: str) -> dict[str, Any]:
    """All of blue's records, by their keys."""
    async with Redis.from_url(url) as redis:
        keys = [key async for key in redis.scan_iter(f"hq:{{*}}{BLUE}:*")]
        return {key: await redis.get(key) for key in sorted(keys)}


@pytest.fixture(scope="module")
def town(valkey_server: EmbeddedValkey) -> Iterator[Town]:
    """One server for all requests. In the end, nothing of blue's has changed."""
    red_key, ids, before = asyncio.run(settle(valkey_server.url))
    with Server(valkey_server.url, has_keys=True) as server:
        yield Town(server, red_key, ids)
    assert any(SECRET.encode() in record for record in before.values())
    assert asyncio.run(blue_timers(valkey_server.url)) == before


def about_blue(case: schemathesis.Case[Any], town: Town) -> None:
    """Ask for what blue has, wherever a name can be given."""
    number = crc32(repr((case.query, case.headers, case.body)).encode())
    timer_id = case.path_parameters.get("timer_id")
    if isinstance(timer_id, str) and is_id(timer_id):
        case.path_parameters["timer_id"] = town.blue_ids[number % len(town.blue_ids)]
    if "application" in case.path_parameters:
        case.path_parameters["application"] = BLUE
    if isinstance(case.query, dict) and number % 2:
        case.query["application"] = BLUE
    if isinstance(case.body, dict) and case.operation.method != "put":
        case.body["id"] = town.blue_ids[number % len(town.blue_ids)]


def send(case: schemathesis.Case[Any], town: Town, headers: dict[str, str]) -> Response:
    """The answer, after a look whether it has anything of blue's."""
    about_blue(case, town)
    sent = {name: value for name, value in (case.headers or {}).items() if name.lower() != "x-api-key"}
    case.headers = type(case.headers)({**sent, **headers}) if case.headers is not None else case.headers
    response = case.call(base_url=town.server.url, headers=headers)
    text = response.text + repr(response.headers)
    assert SECRET not in text, text
    assert response.status_code < HTTPStatus.INTERNAL_SERVER_ERROR, text
    return response


@schema.parametrize()
@few
def test_no_answer_to_one_tenant_has_anything_of_another(case: schemathesis.Case[Any], town: Town) -> None:
    """Red may do everything with its own application."""
    response = send(case, town, {"X-API-Key": town.red_key})
    assert response.status_code != HTTPStatus.UNAUTHORIZED


@schema.parametrize()
@few
def test_nobody_gets_an_answer_without_a_key(case: schemathesis.Case[Any], town: Town) -> None:
    """Except for probes."""
    response = send(case, town, {})
    if (case.operation.method.upper(), case.operation.path) not in OPEN:
        assert response.status_code == HTTPStatus.UNAUTHORIZED, response.text
