"""What is damaged in Redis stops nothing else, and nobody who asks for it gets a 500.

Known defect 14: GET of a damaged record answered 500.
"""

from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from structlog.testing import capture_logs

from httpqueue.relay.relay import Relay
from httpqueue.storage.queue import Queue
from httpqueue.storage.record import FORMAT, encode_attempt, encode_spec
from httpqueue.storage.storage import Storage
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Begun, Refusal, Refused
from httpqueue.timers.schedule import Cron, Delay
from httpqueue.timers.spec import Spec
from httpqueue.timers.timer import Attempt
from tests.support.api_lab import HOOK, Lab
from tests.support.frozen import T0_MS, FrozenTime, begin, claim, new_timer, pass_time, wake_up
from tests.support.keys import Everywhere, place_of, record_key
from tests.support.records import encode_record, pack_values

NEVER: Final = 2**62
"""Ms that are in no year of the calendar."""
SPEC: Final = encode_spec(Spec(HOOK, Delay(0)))
DAMAGED: Final = {
    "pointer without its rest": pack_values(FORMAT, "p"),
    "pointer that is cut off": pack_values(FORMAT, "p", 0, "nonce")[:-1],
    "pointer with more behind it": pack_values(FORMAT, "p", 0, "nonce", 1),
    "pointer to no number": pack_values(FORMAT, "p", "x", "nonce"),
    "pointer to half a partition": pack_values(FORMAT, "p", 0.5, "nonce"),
    "pointer to no partition": pack_values(FORMAT, "p", 99, "nonce"),
    "pointer to a negative one": pack_values(FORMAT, "p", -1, "nonce"),
    "pointer to itself": pack_values(FORMAT, "p", place_of("a"), "nonce"),
    "pointer with garbage behind it": pack_values(FORMAT, "p") + b"\xc1\xc1",
    "due in no year": encode_record(SPEC, due_ms=NEVER),
    "attempted in no year": encode_record(SPEC, encode_attempt(Attempt(NEVER, 0)), due_ms=1),
    "attempt due in no year": encode_record(SPEC, encode_attempt(Attempt(1, NEVER)), due_ms=1),
    "attempt is a deep array": encode_record(SPEC, b"[" * 100_000, due_ms=1),
    "host is no text": encode_record(SPEC, host=b"\x80"),
    "ordering key is no text": encode_record(SPEC, lane=b"\x80"),
    "spec is a deep array": encode_record(b"[" * 100_000, due_ms=1),
}
REQUESTS: Final = (
    ("GET", "", None),
    ("GET", "/attempts", None),
    ("GET", "/explain", None),
    ("PUT", "", {"url": HOOK, "seconds": 1}),
    ("PATCH", "", {"method": "PUT"}),
    ("PUT", "/callback", {"callback": None}),
    ("POST", "/fire", None),
    ("POST", "/replay", None),
    ("DELETE", "", None),
)


@pytest.fixture
def lab(redis: Redis, frozen_store: Store, time: FrozenTime) -> Lab:
    """The API in the test's own time."""
    return Lab(redis, frozen_store, time)


@pytest.mark.parametrize("record", DAMAGED.values(), ids=DAMAGED.keys())
async def test_whoever_asks_for_a_damaged_record_gets_410(lab: Lab, record: bytes) -> None:
    """Whatever is asked: defect 14. A timer that can be changed all the same has readable parts enough."""
    await lab.post("a")
    await lab.post("b")
    for method, below, content in REQUESTS:
        await lab.redis.set(record_key("a"), record)
        answer = await lab.client.request(method, f"/timers/a{below}", json=content)
        is_read = method in {"GET", "PATCH"} or below == "/callback"
        assert answer.status_code in ({410} if is_read else {200, 409, 410}), (method, below, answer.text)
    await lab.redis.set(record_key("a"), record)
    batch = [{"id": each, "url": HOOK, "seconds": 1, "ordering_key": each} for each in "abcdefgh"]
    answer = await lab.client.post("/timers/batch", json={"timers": batch})
    assert answer.status_code < 500, answer.text
    results = answer.json()["results"]
    assert [each["status"] for each in results[2:]] == [201] * 6, results
    listed = await lab.client.get("/timers")
    assert listed.status_code == 200
    assert "b" in [timer["id"] for timer in listed.json()["timers"]]


async def test_a_zone_that_this_machine_does_not_know_is_no_damage(lab: Lab) -> None:
    """A timer made where the zone was known is shown, without its local time."""
    await lab.post("a")
    spec = encode_spec(Spec(HOOK, Cron("0 9 * * *", "Mars/Olympus")))
    await lab.redis.set(record_key("a"), encode_record(spec, due_ms=T0_MS))
    shown = await lab.get("a")
    assert (shown["timezone"], shown["due_local"]) == ("Mars/Olympus", None)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=st.data())
async def test_no_damage_is_a_500(lab: Lab, damage: st.DataObject) -> None:
    """Bytes of a good record are replaced, dropped or added."""
    await lab.redis.flushall()
    await lab.post("a")
    key = record_key("a")
    attempt = encode_attempt(Attempt(T0_MS, 5, 503, "HTTP 503", 3, "body"))
    spec = encode_spec(Spec(HOOK, Delay(0), body={"a": [1, 2.5, None]}, labels={"k": "v"}))
    good = encode_record(spec, attempt, due_ms=T0_MS, attempts=1)
    start = damage.draw(st.integers(0, len(good)))
    end = damage.draw(st.integers(start, min(len(good), start + 4)))
    record = good[:start] + damage.draw(st.binary(max_size=4)) + good[end:]
    await lab.redis.set(key, record)
    for below in ("", "/attempts", "/explain"):
        answer = await lab.client.get(f"/timers/a{below}")
        assert answer.status_code in {200, 404, 410}, (below, record, answer.text)
    answer = await lab.client.get("/timers")
    assert answer.status_code == 200, (record, answer.text)


GARBAGE: Final = ("garbage", "a:b:c", "", b"\xff\xfe:\xff")
INDICES: Final = (
    *("next", "running", "retention", "pointers", "waiting", "probes", "set_aside"),
    *(
        ("due", "default"),
        ("held", "default"),
        ("ended", "d:default"),
        ("lanes", "default:k"),
        ("lines", "default"),
    ),
)


@pytest.fixture
def relay(frozen_storage: Storage, frozen_queue: Queue) -> Relay:
    """In the test's own time."""
    return Relay(storage=frozen_storage, queue=frozen_queue, horizon_ms=600_000, batch_size=500)


async def relay_all(relay: Relay) -> None:
    """Every pass, each of which must end well."""
    for one in (relay.forget, relay.drain, relay.adopt, relay.promote, relay.heal):
        await one()


@pytest.mark.parametrize("index", INDICES, ids=str)
async def test_garbage_in_an_index_stops_nobody_else(  # noqa: PLR0913, PLR0917 - fixtures
    index: str | tuple[str, str],
    relay: Relay,
    frozen_storage: Storage,
    frozen_queue: Queue,
    time: FrozenTime,
    everywhere: Everywhere,
    redis: Redis,
) -> None:
    """Every pass of the relay ends well, then and later. A timer of the same application and key begins."""
    pair = (index, "") if isinstance(index, str) else index
    for key in everywhere.keys(*pair):
        garbage: dict[Any, float] = dict.fromkeys(GARBAGE, 1)
        await redis.zadd(key, garbage)
    await frozen_storage.store.create([new_timer("a", ordering_key="k")])
    with capture_logs():
        await relay_all(relay)
        begun = await begin(frozen_storage.store, await claim(frozen_queue))
        await pass_time(frozen_storage.store, time, 70_000)
        await relay_all(relay)
        begun += await begin(frozen_storage.store, await claim(frozen_queue))
    assert "a" in [each.wake_up.name.id for each in begun if isinstance(each, Begun)], begun
    assert (await frozen_storage.policies.applications())[0].name


async def test_a_policy_that_nobody_can_read_is_the_default_one(
    relay: Relay, frozen_storage: Storage, frozen_queue: Queue, everywhere: Everywhere, redis: Redis
) -> None:
    """Its application goes on, and so do the others of the batch."""
    for key in everywhere.keys("applications"):
        await redis.hset(key, mapping={"default": "{", "other": "[]", "third": "7"})  # type: ignore[misc] # sync or async
    await frozen_storage.store.create([new_timer("a")])
    await relay_all(relay)
    [begun] = await begin(frozen_storage.store, await claim(frozen_queue))
    assert isinstance(begun, Begun)


@pytest.mark.parametrize("field", ["host", "nonce"])
async def test_a_text_that_is_none_is_set_aside_alone(
    field: str, frozen_storage: Storage, redis: Redis, everywhere: Everywhere
) -> None:
    """The scripts can read its record, Python cannot. Its neighbour in the batch begins."""
    await frozen_storage.store.create([new_timer("bad"), new_timer("good")])
    damaged = encode_record(SPEC, due_ms=T0_MS, **{field: b"\x80"})
    await redis.set(record_key("bad"), damaged)
    bad, good = await begin(frozen_storage.store, [wake_up("bad"), wake_up("good")])
    assert bad == Refused(wake_up("bad"), Refusal.UNREADABLE)
    assert isinstance(good, Begun)
    assert list(await everywhere.zset("set_aside")) == ["default:bad"]
