"""Records that were damaged in any way: nobody gets a 500. Defect 14."""

import random
from collections.abc import Iterator
from typing import Final

import pytest
from redis.asyncio import Redis

from httpqueue.storage.timers import Store
from httpqueue.timers.timer import State
from tests.support.api_lab import HOOK, Lab
from tests.support.frozen import FrozenTime
from tests.support.keys import PARTITIONS, place_of
from tests.support.records import pack_values

DAMAGES: Final = 400
PATHS: Final = ("/timers/a", "/timers/a/attempts", "/timers/a/explain", "/timers?status=done")


@pytest.fixture
def lab(redis: Redis, frozen_store: Store, time: FrozenTime) -> Lab:
    """An API."""
    return Lab(redis, frozen_store, time)


def damaged(record: bytes, dice: random.Random) -> Iterator[bytes]:
    """The record with other bits, without its end, with a part that is there twice or is overwritten."""
    for _ in range(DAMAGES):
        kind, at = dice.randrange(4), dice.randrange(len(record))
        if kind == 0:
            yield record[:at] + bytes([record[at] ^ 1 << dice.randrange(8)]) + record[at + 1 :]
        elif kind == 1:
            yield record[:at]
        elif kind == 2:
            yield record[:at] + record[at // 2 :]
        else:
            yield record[:at] + dice.randbytes(4) + record[at + 4 :]


async def test_whatever_is_wrong_with_a_record(lab: Lab) -> None:
    """It is shown, or said to be damaged."""
    await lab.bring(
        "a", State.DONE, labels={"k": "v"}, callback={"url": "http://other/"}, retry={"max_attempts": 2}
    )
    key = f"{PARTITIONS.store_keys[place_of('a')].records}default:a"
    record = await lab.redis.get(key)
    faults = []
    for content in damaged(record, random.Random(14)):
        await lab.redis.set(key, content)
        for path in PATHS:
            status = (await lab.client.get(path)).status_code
            if status not in {200, 410}:
                faults.append((path, status, content))
    assert faults == []


@pytest.mark.parametrize(
    "pointer",
    [
        pack_values(1, b"p"),
        pack_values(1, b"p", 0),
        pack_values(1, b"p", 0, b"nonce", b"more"),
        pack_values(1, b"p", b"x", b"nonce"),
        pack_values(1, b"p", -1, b"nonce"),
        pack_values(1, b"p", 1.5, b"nonce"),
        pack_values(1, b"p", PARTITIONS.count, b"nonce"),
        pack_values(1, b"p", 2**40, b"nonce"),
        pack_values(1, b"p", 0, 7),
        b"\x01\xa1p\xc1",
    ],
)
async def test_whatever_is_wrong_with_a_pointer(lab: Lab, pointer: bytes) -> None:
    """The same; and nobody goes to a partition that there is not."""
    key = f"{PARTITIONS.store_keys[place_of('a')].records}default:a"
    await lab.redis.set(key, pointer)
    faults = []
    for method, path in (
        *(("GET", path) for path in PATHS),
        ("DELETE", "/timers/a"),
        ("POST", "/timers/a/fire"),
        ("PUT", "/timers/a"),
        ("POST", "/timers"),
    ):
        content = {"url": HOOK, "seconds": 1}
        if path == "/timers":
            content["id"] = "a"
        body = content if (method, path) in {("PUT", "/timers/a"), ("POST", "/timers")} else None
        response = await lab.client.request(method, path, json=body)
        if response.status_code >= 500:
            faults.append((method, path, response.text))
    assert faults == []
