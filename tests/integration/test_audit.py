"""The audit log in Redis, and GET /audit (issue 11, defect 7)."""

from typing import Any

import pytest
from redis.asyncio import Redis

from httpqueue.api.key_ring import KeyRing
from httpqueue.storage import audit
from httpqueue.storage.audit import Audit
from httpqueue.storage.keys import audit_keys
from httpqueue.storage.storage import Storage
from httpqueue.storage.timers import Store
from httpqueue.timers.access import Grant, Scope
from httpqueue.timers.audit import AuditEntry
from tests.support.api_lab import HOOK, Lab
from tests.support.frozen import FrozenTime

KEYS = audit_keys()


def entry(target: str, *, application: str = "shop", is_setting: bool = False) -> AuditEntry:
    """A change."""
    return AuditEntry("key", "cancelTimer", application, target, 200, is_setting=is_setting)


async def targets(log: Audit, limit: int, application: str | None = None) -> tuple[list[str], int]:
    """Those of all pages, and how many pages there are."""
    found: list[str] = []
    position, pages = None, 0
    while True:
        page = await log.page(position, limit=limit, application=application)
        assert len(page.entries) <= limit
        found += [entry.target for entry in page.entries]
        pages += 1
        position = page.next
        if position is None:
            return found, pages


async def test_what_is_written_is_read(storage: Storage) -> None:
    """With the server's time; an empty log is one empty page."""
    assert (await storage.audit.page(None, limit=10, application=None)).next is None
    await storage.audit.append([entry("a b", application="")])
    [found] = (await storage.audit.page(None, limit=10, application=None)).entries
    assert (found.application, found.target) == ("", "a+b")
    now_ms = await storage.time_ms()
    await storage.audit.append([AuditEntry("", "setDestination", "", "b.example", 503, is_setting=True)])
    page = await storage.audit.page(None, limit=2, application=None)
    [found] = [each for each in page.entries if each.is_setting]  # both may be of one ms
    assert found == AuditEntry("", "setDestination", "", "b.example", 503, is_setting=True, at_ms=found.at_ms)
    assert now_ms <= found.at_ms <= await storage.time_ms()


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_pages_of_both_streams(storage: Storage, limit: int) -> None:
    """The latest first, each once, whatever the size of a page. Within a ms, only streams are in order."""
    for n in range(9):
        await storage.audit.append([entry(str(n), is_setting=n % 3 == 0)])
    found, _ = await targets(storage.audit, limit)
    assert sorted(found) == [str(n) for n in range(9)]
    for of_settings in (True, False):
        ordered = [n for n in map(int, found) if (n % 3 == 0) == of_settings]
        assert ordered == sorted(ordered, reverse=True)


async def test_both_streams_by_their_time(redis: Redis, storage: Storage) -> None:
    """Whichever of them an entry is in."""
    for ms in range(1, 9):
        await redis.xadd(
            KEYS.settings if ms % 3 else KEYS.timers, {"change": f"a b {ms} 200 key"}, id=f"{ms}-1"
        )
    for limit in (1, 3, 100):
        assert (await targets(storage.audit, limit))[0] == [str(ms) for ms in range(8, 0, -1)]


async def test_entries_of_one_batch(storage: Storage) -> None:
    """They have one instant, and may have one id in both streams: none is lost."""
    await storage.audit.append([entry(str(n), is_setting=n % 2 == 0) for n in range(10)])
    assert sorted((await targets(storage.audit, 3))[0]) == [str(n) for n in range(10)]


async def test_an_applications_entries(
    redis: Redis, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that finds few ends early, with a cursor. It never goes on in one stream before the other."""
    monkeypatch.setattr(audit, "LOOK", 4)
    await redis.xadd(KEYS.settings, {"change": "a shop oldest 200 key"}, id="1-1")
    for ms in range(2, 22):
        application = "shop" if ms == 4 else "blog"
        await redis.xadd(KEYS.timers, {"change": f"a {application} {ms} 200 key"}, id=f"{ms}-1")
    found, pages = await targets(storage.audit, 10, "shop")
    assert found == ["4", "oldest"]
    assert pages >= 5


async def test_the_log_is_bounded(redis: Redis, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many changes of timers push out none of settings; a stream is cut by whole nodes of 100 entries."""
    monkeypatch.setattr(audit, "KEPT", 100)
    await storage.audit.append([entry("first", is_setting=True)])
    for _ in range(8):
        await storage.audit.append([entry("a")] * 100)
    assert 100 <= await redis.xlen(KEYS.timers) <= 300
    assert await redis.xlen(KEYS.settings) == 1


async def test_a_full_redis_takes_entries(redis: Redis, storage: Storage) -> None:
    """As timers can still be cancelled then, it must be seen who did so."""
    await storage.audit.append([entry("a")])
    used = (await redis.info("memory"))["used_memory"]
    await redis.config_set("maxmemory", used // 2)
    try:
        await storage.audit.append([entry("b")])
    finally:
        await redis.config_set("maxmemory", 0)
    assert (await targets(storage.audit, 9))[0] == ["b", "a"]


async def test_what_is_no_entry_is_skipped(redis: Redis, storage: Storage) -> None:
    """Whoever wrote it."""
    await storage.audit.append([entry("a")])
    strange: tuple[dict[Any, Any], ...]
    strange = ({"a": "b"}, {"change": b"\xff"}, {"change": "a b c"}, {"change": "a b c d e"})
    for fields in strange:
        await redis.xadd(KEYS.timers, fields)
    assert (await targets(storage.audit, 9))[0] == ["a"]


# --- GET /audit ---


@pytest.fixture
async def lab(redis: Redis, frozen_store: Store, time: FrozenTime, storage: Storage) -> Lab:
    """The API with keys; the client's headers have the one for everything."""
    lab = Lab(redis, frozen_store, time, api_keys=KeyRing(storage.api_keys.load))
    lab.client.headers["X-API-Key"] = await storage.api_keys.create(Grant("every", None, Scope.ADMIN))
    return lab


async def shown(lab: Lab, query: str = "", **headers: str) -> list[dict[str, Any]]:
    """The entries of GET /audit, which has the changes of the same process at once."""
    response = await lab.client.get(f"/audit{query}", headers=headers)
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["entries"]
    return found


async def test_who_did_what(lab: Lab, storage: Storage) -> None:
    """Each change by its key, the latest first; none of what was only read or refused."""
    key = {"X-API-Key": await storage.api_keys.create(Grant("shop", "shop", Scope.WRITE))}
    await lab.client.post("/timers", json={"id": "a", "url": HOOK, "seconds": 60}, headers=key)
    await lab.trail.flush()
    await lab.client.get("/timers/a", headers=key)
    await lab.client.post("/applications/shop/pause", headers=key)  # it may not
    await lab.client.delete("/timers/a?application=shop")
    await lab.trail.flush()
    await lab.client.put("/destinations/receiver", json={"paused": True})
    entries = await shown(lab)
    assert all(entry.pop("at").endswith("Z") for entry in entries)
    assert entries == [
        {
            "key": "every",
            "action": "setDestination",
            "application": None,
            "target": "receiver",
            "status": 200,
        },
        {"key": "every", "action": "cancelTimer", "application": "shop", "target": "a", "status": 200},
        {"key": "shop", "action": "createTimer", "application": "shop", "target": "a", "status": 201},
    ]


async def test_who_may_see_it(lab: Lab, storage: Storage) -> None:
    """Admins; an application's admin sees that application alone."""
    await lab.post("a", application="shop")
    await lab.post("b", application="blog")
    own = await storage.api_keys.create(Grant("own", "shop", Scope.ADMIN))
    assert [entry["target"] for entry in await shown(lab, **{"X-API-Key": own})] == ["a"]
    assert [entry["target"] for entry in await shown(lab, "?application=blog")] == ["b"]
    assert len(await shown(lab)) == 2
    response = await lab.client.get("/audit?application=blog", headers={"X-API-Key": own})
    assert response.status_code == 403
    for scope in (Scope.READ, Scope.WRITE):
        key = await storage.api_keys.create(Grant(scope, None, scope))
        assert (await lab.client.get("/audit", headers={"X-API-Key": key})).status_code == 403


async def test_pages(lab: Lab) -> None:
    """A cursor leads on; what is none is refused by name."""
    for n in range(3):
        await lab.post(str(n))
        await lab.trail.flush()
    answer = (await lab.client.get("/audit?limit=2")).json()
    assert [entry["target"] for entry in answer["entries"]] == ["2", "1"]
    answer = (await lab.client.get(f"/audit?limit=2&cursor={answer['next_cursor']}")).json()
    assert [entry["target"] for entry in answer["entries"]] == ["0"]
    assert answer["next_cursor"] is None
    for query in ("limit=0", "limit=1001", "cursor=", "cursor=x", "cursor=WzEsMl0", "cursor=WyItIiwiKyJd"):
        response = await lab.client.get(f"/audit?{query}")
        assert response.status_code == 422
        assert [error["field"] for error in response.json()["errors"]] == [query.partition("=")[0]]
    for query in ("limit=1&limit=2", "until=1"):
        assert (await lab.client.get(f"/audit?{query}")).status_code == 422
