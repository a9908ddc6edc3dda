"""Jobs (defect 12): work on very many timers goes on after the answer, in steps, whoever dies meanwhile."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
from redis.asyncio import Redis

from httpqueue.api.auth import GRANT
from httpqueue.errors import UnavailableError
from httpqueue.relay import jobs as steps
from httpqueue.storage import policies
from httpqueue.storage.jobs import LEASE_MS, MAX_OPEN
from httpqueue.storage.timers import Store
from httpqueue.timers.access import Grant, Scope
from httpqueue.timers.commands import Change, Refusal, Refused
from httpqueue.timers.jobs import KEPT_MS, JobKind, JobSpec, JobState
from httpqueue.timers.timer import State
from httpqueue.webhooks.outcome import Outcome
from tests.support.api_lab import Lab
from tests.support.frozen import HOUR_MS, FrozenTime, begin, finish_of, forget, new_timer, storage_of, wake_up
from tests.support.keys import Everywhere


@pytest.fixture
def lab(redis: Redis, frozen_store: Store, time: FrozenTime) -> Lab:
    """The API on an empty server."""
    return Lab(redis, frozen_store, time)


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step visits three timers, each turn is one step."""
    monkeypatch.setattr(steps, "LOOK", 3)
    monkeypatch.setattr(steps, "SLICE_S", 0)


async def many(store: Store, count: int, *, prefix: str = "t", **spec: Any) -> list[str]:
    """So many timers that are due now."""
    names = [f"{prefix}{number:02}" for number in range(count)]
    await store.create([new_timer(name, **spec) for name in names])
    return names


async def fail(store: Store, names: list[str]) -> None:
    """They are called, and fail."""
    begun: Any = await begin(store, [wake_up(name) for name in names])
    await store.finish([finish_of(each, Outcome.FAILED) for each in begun])


async def started(lab: Lab, path: str, method: str = "POST", **members: Any) -> str:
    """A job that the API has accepted -> its path."""
    response = await lab.client.request(method, path, json=members)
    assert response.status_code == 202, response.text
    location: str = response.headers["location"]
    assert location == f"/jobs/{response.json()['id']}"
    assert response.json()["state"] == "waiting"
    return location


async def shown(lab: Lab, path: str) -> dict[str, Any]:
    """GET /jobs/{id}."""
    response = await lab.client.get(path)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def states(lab: Lab, application: str = "default") -> dict[str, int]:
    """How many timers are in each state."""
    response = await lab.client.get(f"/applications/{application}")
    counts: dict[str, int] = response.json()["counts"]
    return counts


# --- replay ---


@pytest.mark.usefixtures("small_steps")
async def test_a_replay_is_a_job(lab: Lab) -> None:
    """Defect 12: 202 at once; the job tells how far it has come, and in the end all are scheduled again."""
    await fail(lab.store, await many(lab.store, 20))
    path = await started(lab, "/timers/replay")
    assert await states(lab) == {"failed": 20}
    await lab.relay.work()
    job = await shown(lab, path)
    assert (job["kind"], job["state"], job["error"]) == ("replay", "done", None)
    assert (job["total"], job["done"], job["matched"], job["changed"]) == (20, 20, 20, 20)
    assert job["created"] == job["started"] == job["ended"]
    assert await states(lab) == {"scheduled": 20}


async def test_a_dry_run_only_counts(lab: Lab) -> None:
    """By label, host and due time; without dry_run as many are sent again."""
    await lab.bring("a", State.FAILED, labels={"team": "blue"})
    lab.time.advance(1_000)
    await lab.bring("b", State.FAILED, labels={"team": "blue"}, url="http://other/")
    await lab.bring("c", State.FAILED, labels={"team": "red"})
    await lab.bring("d", State.DONE, labels={"team": "blue"})
    now_s = lab.time.now_ms / 1_000
    for wish, count in (
        ({}, 3),
        ({"label": "team:blue"}, 2),
        ({"host": "OTHER"}, 1),
        ({"due_from": now_s}, 2),
        ({"due_to": now_s - 1}, 1),
        ({"due_to": now_s - 1, "label": "team:red"}, 0),
        ({"application": "shop"}, 0),
    ):
        path = await started(lab, "/timers/replay", **wish, dry_run=True)
        await lab.relay.work()
        job = await shown(lab, path)
        assert (job["dry_run"], job["state"], job["matched"], job["changed"]) == (True, "done", count, 0), (
            wish
        )
    assert (await states(lab))["failed"] == 3
    path = await started(lab, "/timers/replay", label="team:blue")
    await lab.relay.work()
    assert (await shown(lab, path))["changed"] == 2
    assert await states(lab) == {"scheduled": 2, "failed": 1, "done": 1}


@pytest.mark.usefixtures("small_steps")
async def test_a_replayed_timer_that_fails_again_is_not_replayed_again(lab: Lab) -> None:
    """Otherwise a receiver that is still down would be called for ever."""
    await fail(lab.store, await many(lab.store, 5))
    path = await started(lab, "/timers/replay")
    change = lab.store.change

    async def change_and_fail(changes: Any) -> Any:
        lab.time.advance(1)
        answers = await change(changes)
        begun: Any = await begin(lab.store, [wake_up(each.name.id, 1) for each in changes])
        await lab.store.finish([finish_of(each, Outcome.FAILED) for each in begun])
        return answers

    with patch.object(lab.relay._jobs._store, "change", change_and_fail):
        await lab.relay.work()
    assert (await shown(lab, path))["changed"] == 5
    assert await states(lab) == {"failed": 5}


async def test_many_steps_for_timers_with_ordering_keys(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in the partitions of their keys, not at home."""
    monkeypatch.setattr(steps, "LOOK", 3)
    names = [f"t{number}" for number in range(12)]
    await lab.store.create([new_timer(name, 1_000, ordering_key=f"k{name}") for name in names])
    path = await started(lab, "/timers/cancel", "POST", host="receiver")
    await lab.relay.work()
    assert (await shown(lab, path))["changed"] == 12
    assert await states(lab) == {"cancelled": 12}


# --- cancel ---


async def test_cancel_by_filter(lab: Lab, redis: Redis) -> None:
    """Defect 15: scheduled ones that match end; what runs or has ended is left alone."""
    await lab.bring("runs", State.RUNNING, labels={"team": "blue"})
    await lab.bring("failed", State.FAILED, labels={"team": "blue"})
    await lab.post("soon", seconds=1, labels={"team": "blue"})
    await lab.post("own", seconds=1, labels={"team": "blue"}, retention={"done": 1})
    await lab.post("red", seconds=1, labels={"team": "red"})
    path = await started(lab, "/timers/cancel", label="team:blue", dry_run=True)
    await lab.relay.work()
    assert (await shown(lab, path))["matched"] == 2
    path = await started(lab, "/timers/cancel", label="team:blue")
    await lab.relay.work()
    job = await shown(lab, path)
    assert (job["kind"], job["state"], job["matched"], job["changed"]) == ("cancel", "done", 2, 2)
    assert await states(lab) == {"running": 1, "failed": 1, "scheduled": 1, "cancelled": 2}
    lab.time.advance(1_000)
    assert await forget(lab.store) == 1  # its own retention is over
    lab.time.advance(HOUR_MS - 1_001)
    assert await forget(lab.store) == 0
    lab.time.advance(1)
    await forget(lab.store)
    assert "default:c" not in await Everywhere(redis).hash("counts")


async def test_cancel_leaves_the_line_of_a_host(lab: Lab) -> None:
    """Who waits behind a cancelled timer must not wait for it."""
    await lab.client.put("/destinations/receiver", json={"concurrency": 1})
    await lab.post("first")
    await lab.post("second", labels={"team": "blue"})
    await lab.begin("first")
    assert isinstance(await lab.try_to_begin("second"), Refused)
    await lab.permits.mark()
    assert (await lab.client.get("/destinations/receiver")).json()["waiting"] == 1
    await started(lab, "/timers/cancel", label="team:blue")
    await lab.relay.work()
    assert (await lab.client.get("/destinations/receiver")).json()["waiting"] == 0


async def test_cancel_needs_a_body(lab: Lab) -> None:
    """Nobody cancels everything by a request that lost its body."""
    await lab.post("a", seconds=1)
    assert (
        await lab.client.post("/timers/cancel", headers={"content-type": "application/json"})
    ).status_code == 400
    path = await started(lab, "/timers/cancel", dry_run=False)
    await lab.relay.work()
    assert (await shown(lab, path))["changed"] == 1


# --- resume ---


async def test_a_short_resume_is_done_at_once(lab: Lab) -> None:
    """200, as ever, and no job."""
    await lab.client.post("/applications/default/pause")
    names = await many(lab.store, 5)
    await begin(lab.store, [wake_up(name) for name in names])
    response = await lab.client.post("/applications/default/resume")
    assert (response.status_code, response.json()["paused"]) == (200, False)
    assert not await lab.relay.has_jobs()


async def test_a_long_resume_becomes_a_job(lab: Lab, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect 12: the answer does not wait until all of very many timers are woken."""
    monkeypatch.setattr(policies, "RELEASE", 2)
    monkeypatch.setattr(policies, "RELEASE_AT_ONCE", 2)
    monkeypatch.setattr(steps, "RELEASE", 2)
    await lab.client.post("/applications/default/pause")
    names = await many(lab.store, 30)
    refused = await begin(lab.store, [wake_up(name) for name in names])
    assert {each.refusal for each in refused if isinstance(each, Refused)} == {Refusal.PAUSED}
    path = await started(lab, "/applications/default/resume")
    left = await Everywhere(redis).zcard("lines", "default")
    assert left > 0
    again = await lab.client.post("/applications/default/resume")
    assert again.headers.get("location") == path  # one is enough
    await lab.relay.work()
    assert await Everywhere(redis).zcard("lines", "default") == 0
    assert (await shown(lab, path))["state"] == "done"
    assert not any(isinstance(each, Refused) for each in await begin(lab.store, refused_wake_ups(names)))


def refused_wake_ups(names: list[str]) -> list[Any]:
    """Of all of them."""
    return [wake_up(name) for name in names]


async def test_a_resume_ends_when_the_application_is_paused_again(
    lab: Lab, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wake timers that have to go to sleep again."""
    monkeypatch.setattr(policies, "RELEASE", 1)
    monkeypatch.setattr(policies, "RELEASE_AT_ONCE", 1)
    await lab.client.post("/applications/default/pause")
    await begin(lab.store, refused_wake_ups(await many(lab.store, 12)))
    path = await started(lab, "/applications/default/resume")
    await lab.client.post("/applications/default/pause")
    left = await Everywhere(redis).zcard("lines", "default")
    await lab.relay.work()
    job = await shown(lab, path)
    assert (job["state"], job["changed"]) == ("done", 0)
    assert await Everywhere(redis).zcard("lines", "default") == left > 0


# --- delete an application ---


async def test_an_application_is_deleted(lab: Lab, redis: Redis) -> None:
    """Defect 15: all its timers end, its settings go, its ids are archived; others are left alone."""
    await lab.post("scheduled", seconds=1, application="shop", ordering_key="k")
    await lab.post("cancelled", seconds=1, application="shop")
    await lab.client.delete("/timers/cancelled?application=shop")
    await lab.bring("done", State.DONE, application="shop")
    await lab.bring("failed", State.FAILED, application="shop")
    await lab.post("other", seconds=1)
    settings = {"retention": {"done": 60}, "quota": {"rate": 100}}
    await lab.client.put("/applications/shop", json=settings)
    path = await started(lab, "/applications/shop", "DELETE")
    await lab.relay.work()
    job = await shown(lab, path)
    assert (job["kind"], job["state"], job["application"]) == ("delete", "done", "shop")
    assert (job["done"], job["changed"]) == (4, 4)
    listed = (await lab.client.get("/applications")).json()["applications"]
    assert [each["application"] for each in listed] == ["default"]
    for timer_id in ("scheduled", "done", "failed", "cancelled"):
        assert (await lab.get(timer_id, application="shop"))["archived"]
    assert not [key for key in await redis.keys() if b"shop" in key and b"job:" not in key]
    assert not any([b"shop" in (await redis.dump(key) or b"") for key in await redis.keys("hq:{?}:rates")])
    await lab.post("new", seconds=1, application="shop")
    assert await states(lab, "shop") == {"scheduled": 1}


async def test_an_application_that_is_deleted_takes_and_calls_nothing(lab: Lab) -> None:
    """Its running timers end first: no attempt is cut off, no retry comes, and the job waits for them."""
    await lab.bring("runs", State.RUNNING, application="shop", retry={"delays": [1, 1]})
    [begun] = [await begin_again(lab, "runs")]
    await lab.post("due", application="shop")
    path = await started(lab, "/applications/shop", "DELETE")
    await lab.relay.work()
    job = await shown(lab, path)
    assert (job["state"], job["changed"]) == ("running", 1)
    refused = await lab.client.post(
        "/timers", json={"id": "x", "url": "http://a/", "seconds": 1, "application": "shop"}
    )
    assert refused.status_code == 409
    assert "a job is deleting" in refused.json()["detail"]
    for call in ("pause", "resume"):
        assert (await lab.client.post(f"/applications/shop/{call}")).status_code == 409
    shop = (await lab.client.get("/applications/shop")).json()
    assert (shop["paused"], shop["deleting"]) == (True, True)
    await lab.store.finish([finish_of(begun, Outcome.RETRY, 1_000)])
    await lab.relay.work()
    assert (await shown(lab, path))["state"] == "done"
    assert await states(lab, "shop") == {}


async def test_a_timer_that_ends_behind_the_job_is_deleted_too(lab: Lab) -> None:
    """The job had passed its place while it ran."""
    await lab.post("runs", application="shop")
    begun = await lab.begin("runs", application="shop")
    await lab.post("later", seconds=1, application="shop")
    path = await started(lab, "/applications/shop", "DELETE")
    step = lab.relay._jobs._step

    async def step_and_end(job: Any) -> Any:
        answer = await step(job)
        await lab.store.finish([finish_of(begun, Outcome.DELIVERED)])
        return answer

    with patch.object(lab.relay._jobs, "_step", step_and_end):
        await lab.relay.work()
    job = await shown(lab, path)
    assert (job["state"], job["changed"]) == ("done", 2)
    assert await states(lab, "shop") == {}
    assert (await lab.get("runs", application="shop"))["archived"]


async def begin_again(lab: Lab, timer_id: str) -> Any:
    """The attempt of a timer that runs, by a worker that has taken it over."""
    await lab.store.hand_back([(await taken_over(lab, timer_id), False)])
    return await lab.begin(timer_id, application="shop")


async def taken_over(lab: Lab, timer_id: str) -> Any:
    """As soon as its lease is over."""
    from tests.support.frozen import lose_leases  # noqa: PLC0415 - used here alone

    await lose_leases(lab.store, lab.time)
    return await lab.begin(timer_id, application="shop")


async def test_a_deletion_can_be_stopped(lab: Lab) -> None:
    """What is gone is gone; the rest is paused until somebody resumes it."""
    await lab.bring("runs", State.RUNNING, application="shop")
    path = await started(lab, "/applications/shop", "DELETE")
    await lab.relay.work()
    assert (await lab.client.delete(path)).json()["state"] == "cancelling"
    await lab.relay.work()
    assert (await shown(lab, path))["state"] == "cancelled"
    shop = (await lab.client.get("/applications/shop")).json()
    assert (shop["paused"], shop["deleting"], shop["counts"]) == (True, False, {"running": 1})
    assert (await lab.client.post("/applications/shop/resume")).status_code == 200


# --- stop, die, go on ---


@pytest.mark.usefixtures("small_steps")
async def test_a_job_that_nobody_has_begun_ends_at_once(lab: Lab) -> None:
    """And it can be asked for that again."""
    await fail(lab.store, await many(lab.store, 5))
    path = await started(lab, "/timers/replay")
    for _ in range(2):
        assert (await lab.client.delete(path)).json()["state"] == "cancelled"
    await lab.relay.work()
    assert await states(lab) == {"failed": 5}


@pytest.mark.usefixtures("small_steps")
async def test_a_job_that_runs_ends_after_its_step(lab: Lab) -> None:
    """What it has done stays, and it says how much that is."""
    await fail(lab.store, await many(lab.store, 20))
    path = await started(lab, "/timers/replay")
    step = lab.relay._jobs._step

    async def step_and_cancel(job: Any) -> Any:
        answer = await step(job)
        assert (await lab.client.delete(path)).json()["state"] == "cancelling"
        return answer

    with patch.object(lab.relay._jobs, "_step", step_and_cancel):
        await lab.relay.work()
    job = await shown(lab, path)
    assert job["state"] == "cancelled"
    assert 0 < job["changed"] <= 3
    assert await states(lab) == {"failed": 20 - job["changed"], "scheduled": job["changed"]}
    assert (await lab.client.delete(path)).json()["state"] == "cancelled"


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("when", ["before the step", "after the step"])
async def test_another_relay_goes_on_when_one_dies(lab: Lab, when: str) -> None:
    """From the last note; what the dead one did and did not note is not done twice."""
    await fail(lab.store, await many(lab.store, 20))
    path = await started(lab, "/timers/replay")
    work = lab.relay._jobs
    calls = 0
    step, note = work._step, work._jobs.note

    def dies(real: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 3:
                raise UnavailableError
            return await real(*args, **kwargs)

        return call

    with (
        patch.object(work, "_step", dies(step) if when == "before the step" else step),
        patch.object(work._jobs, "note", dies(note) if when == "after the step" else note),
        pytest.raises(UnavailableError),
    ):
        await work.work()
    assert await work.work() == 0  # the dead one still has it
    lab.time.advance(LEASE_MS)
    assert await work.work() > 0
    job = await shown(lab, path)
    assert job["state"] == "done"
    assert await states(lab) == {"scheduled": 20}
    assert {(await lab.get(f"t{number:02}"))["generation"] for number in range(20)} == {1}
    assert job["changed"] in (range(17, 21) if when == "after the step" else {20})


async def test_who_was_frozen_notes_nothing(lab: Lab) -> None:
    """Its job is another relay's, or has ended."""
    await fail(lab.store, await many(lab.store, 3))
    path = await started(lab, "/timers/replay")
    jobs = storage_of(lab.store).jobs
    frozen = await jobs.take("frozen")
    assert frozen is not None
    lab.time.advance(LEASE_MS)
    await lab.relay.work()
    before = await shown(lab, path)
    progress = steps._progress(replace(frozen, done=99))
    assert await jobs.note(frozen, "frozen", progress, is_given_up=False) is None
    assert await jobs.end(frozen, "frozen", JobState.FAILED, progress) is None
    assert await shown(lab, path) == before


async def test_a_timer_that_changed_meanwhile_is_left_alone(lab: Lab) -> None:
    """It is matched, and not changed."""
    await many(lab.store, 3, delay_ms=1_000)
    path = await started(lab, "/timers/cancel", dry_run=False)
    end = lab.store.end_timers

    async def change_first(*args: Any, **kwargs: Any) -> int:
        name = new_timer("t00").name
        await lab.store.change([Change(name, frozenset({State.SCHEDULED}), spec=new_timer("t00", 9).spec)])
        return await end(*args, **kwargs)

    with patch.object(lab.relay._jobs._store, "end_timers", change_first):
        await lab.relay.work()
    job = await shown(lab, path)
    assert (job["matched"], job["changed"]) == (3, 2) or job["changed"] < job["matched"]
    assert (await lab.get("t00"))["status"] == "scheduled"


async def test_jobs_take_turns(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short one does not wait for a long one of somebody else."""
    monkeypatch.setattr(steps, "LOOK", 1)
    monkeypatch.setattr(steps, "SLICE_S", 0)
    await many(lab.store, 20, delay_ms=1_000)
    await lab.post("a", seconds=1, application="shop")
    long = await started(lab, "/timers/cancel", dry_run=False)
    lab.time.advance(1)
    short = await started(lab, "/timers/cancel", application="shop")
    step = lab.relay._jobs._step
    at_the_end: list[dict[str, Any]] = []

    async def step_in_time(job: Any) -> Any:
        lab.time.advance(1)  # while time stands still, all have waited for equally long
        if (await shown(lab, short))["state"] == "done" and not at_the_end:
            at_the_end.append(await shown(lab, long))
        return await step(job)

    with patch.object(lab.relay._jobs, "_step", step_in_time):
        await lab.relay.work()
    assert at_the_end[0]["state"] == "running"
    assert (await shown(lab, long))["state"] == "done"


async def test_a_bug_ends_the_job_alone(lab: Lab) -> None:
    """It says so, without anything of the timers; the next job is done."""
    await many(lab.store, 3, delay_ms=1_000)
    broken, fine = [await started(lab, "/timers/cancel", dry_run=False) for _ in range(2)]
    step = lab.relay._jobs._step

    async def broken_step(job: Any) -> Any:
        if job.id == broken.rpartition("/")[2]:
            raise ZeroDivisionError("http://secret/")
        return await step(job)

    with patch.object(lab.relay._jobs, "_step", broken_step):
        await lab.relay.work()
    job = await shown(lab, broken)
    assert (job["state"], job["error"]) == ("failed", "an error in httpqueue: ZeroDivisionError")
    assert (await shown(lab, fine))["changed"] == 3


async def test_a_damaged_job_fails_alone(lab: Lab, redis: Redis) -> None:
    """And it cannot be seen."""
    path = await started(lab, "/timers/cancel", dry_run=False)
    key = f"hq:{{jobs}}:job:{path.rpartition('/')[2]}"
    await redis.hset(key, "spec", "?")  # type: ignore[misc] # redis-py: sync or async
    lost = await started(lab, "/timers/cancel", dry_run=False)
    await redis.delete(f"hq:{{jobs}}:job:{lost.rpartition('/')[2]}")
    fine = await started(lab, "/timers/cancel", dry_run=False)
    await lab.relay.work()
    assert (await lab.client.get(path)).status_code == 404
    assert (await lab.client.get(lost)).status_code == 404
    assert (await shown(lab, fine))["state"] == "done"
    assert not await lab.relay.has_jobs()


# --- who may, and for how long ---


async def test_a_jobs_record_ends(lab: Lab, redis: Redis) -> None:
    """A week after the job; nothing else is left of it."""
    path = await started(lab, "/timers/cancel", dry_run=False)
    await lab.relay.work()
    key = f"hq:{{jobs}}:job:{path.rpartition('/')[2]}"
    assert KEPT_MS - 60_000 < await redis.pttl(key) <= KEPT_MS
    assert await redis.keys("hq:{jobs}:*") == [key.encode()]
    await redis.delete(key)
    response = await lab.client.get(path)
    assert (response.status_code, "there is no such job" in response.text) == (404, True)
    assert (await lab.client.delete(path)).status_code == 404


async def test_an_application_has_so_many_open_jobs(lab: Lab) -> None:
    """Then 429; other applications may go on."""
    for _ in range(MAX_OPEN):
        await started(lab, "/timers/cancel", dry_run=True)
    response = await lab.client.post("/timers/cancel", json={})
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) > 0
    await started(lab, "/timers/cancel", application="shop")
    await started(lab, "/applications/default", "DELETE")
    await lab.relay.work()
    await started(lab, "/timers/cancel", dry_run=True)


@pytest.mark.parametrize(
    ("grant", "statuses"),
    [
        (Grant("1", "shop", Scope.ADMIN), (200, 200)),
        (Grant("1", None, Scope.ADMIN), (200, 200)),
        (Grant("1", "shop", Scope.WRITE), (200, 403)),
        (Grant("1", "other", Scope.ADMIN), (404, 404)),
    ],
)
async def test_who_sees_and_stops_a_job(lab: Lab, grant: Grant, statuses: tuple[int, int]) -> None:
    """Only its own application does; to stop a deletion takes the scope that began it."""
    job = await storage_of(lab.store).jobs.add(JobSpec(JobKind.DELETE, "shop"))
    assert job is not None
    app = lab.client._transport.app  # type: ignore[attr-defined] # httpx.ASGITransport has it

    async def with_grant(scope: Any, receive: Any, send: Any) -> None:
        await app(scope | {GRANT: grant}, receive, send)

    lab.client._transport.app = with_grant  # type: ignore[attr-defined] # as above
    path = f"/jobs/{job.id}"
    assert (await lab.client.get(path)).status_code == statuses[0]
    assert (await lab.client.delete(path)).status_code == statuses[1]


async def test_the_relay_does_jobs_by_itself(lab: Lab) -> None:
    """Without anybody calling it."""
    await lab.post("a", seconds=1)
    path = await started(lab, "/timers/cancel", dry_run=False)
    async with asyncio.timeout(10):
        running = asyncio.create_task(lab.relay.run())
        while (await shown(lab, path))["state"] != "done":
            pass
        await lab.relay.stop()
        await running
