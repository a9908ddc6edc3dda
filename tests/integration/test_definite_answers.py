"""What an answer says is so (issue 11, defect 13)."""

from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from httpqueue.storage.record import encode_spec
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Begun, End, Finish, NewTimer, Recur, Refusal, Refused, Retry, WakeUp
from httpqueue.timers.names import TimerName
from httpqueue.timers.schedule import Delay, parse_instant_ms
from httpqueue.timers.spec import Retention, Spec
from httpqueue.timers.timer import Attempt, State
from tests.support.api_lab import HOOK, Lab
from tests.support.frozen import HOUR_MS, FrozenTime
from tests.support.keys import PARTITIONS

NAME = TimerName("default", "a")
ENDED = [State.DONE, State.FAILED, State.CANCELLED]


@pytest.fixture
def lab(redis: Redis, frozen_store: Store, time: FrozenTime) -> Lab:
    """The API in the test's own time."""
    return Lab(redis, frozen_store, time)


@pytest.mark.parametrize("state", [*ENDED, State.RUNNING, State.SCHEDULED])
async def test_a_timer_that_is_posted_again_says_what_became_of_it(lab: Lab, state: State) -> None:
    """The answer was 200 with a past due, as if it were to fire."""
    await lab.bring("a", state)
    again = await lab.client.post("/timers", json={"id": "a", "url": HOOK, "seconds": 0})
    assert again.status_code == 200
    assert again.json() == {
        "id": "a",
        "due": (await lab.get("a"))["due"],
        "created": False,
        "status": state.value,
    }
    batch = await lab.client.post("/timers/batch", json={"timers": [{"id": "a", "url": HOOK, "seconds": 0}]})
    [result] = batch.json()["results"]
    assert (result["status"], result["created"], result["timer_status"]) == (200, False, state.value)


@pytest.mark.parametrize("state", ENDED)
async def test_replace_runs_the_same_timer_again(lab: Lab, state: State) -> None:
    """Also when nothing in it is new."""
    await lab.bring("a", state)
    body = {"id": "a", "url": HOOK, "seconds": 0, "if_exists": "replace"}
    again = await lab.client.post("/timers", json=body)
    assert (again.status_code, again.json()["status"], again.json()["created"]) == (200, "scheduled", False)
    await lab.begin("a", generation=1)


@pytest.mark.parametrize(
    ("own", "of_application", "expected_ms"),
    [
        ({"done": 7}, None, 7_000),
        ({"done": 7, "failed": 8}, {"done": 9}, 7_000),
        ({"failed": 8}, {"done": 9}, 9_000),
        (None, {"done": 9, "failed": 1}, 9_000),
        (None, {"failed": 1}, HOUR_MS),
        ({"done": 0}, {"done": 9}, 0),
        (None, None, HOUR_MS),
    ],
)
async def test_a_cancelled_timer_is_kept_for_its_own_retention(
    lab: Lab, own: dict[str, float] | None, of_application: dict[str, float] | None, expected_ms: int
) -> None:
    """DELETE kept every timer for the retention of the settings."""
    if of_application:
        await lab.client.put("/applications/default", json={"retention": of_application})
    # what could be taken for the retention by who does not look closely
    body = {"retention": {"done_ms": 1}, "x": ['"retention":{"done_ms":2}}']}
    await lab.post("a", seconds=60, body=body, retention=own)
    assert (await lab.client.delete("/timers/a")).status_code == 200
    if expected_ms:
        lab.time.advance(expected_ms - 1)
        assert (await lab.get("a"))["status"] == "cancelled"
    lab.time.advance(1)
    assert (await lab.get("a"))["status"] == "archived"


def test_the_retention_is_the_last_member_of_a_spec() -> None:
    """lua/common.lua finds it there, without decoding the body."""
    for retention, end in (
        (Retention(1, 2), b',"retention":{"done_ms":1,"failed_ms":2}}'),
        (Retention(1), b',"retention":{"done_ms":1}}'),
        (Retention(None, 2), b',"retention":{"failed_ms":2}}'),
    ):
        spec = Spec(HOOK, Delay(1), body={"a": 1}, labels={"a": "b"}, past_due=5, retention=retention)
        assert encode_spec(spec).endswith(end)


async def test_nobody_can_take_the_id_of_a_callback(lab: Lab) -> None:
    """Its callback would be lost without a word."""
    body = {"id": "a~callback-wPL3xQ0-0", "url": HOOK, "seconds": 0}
    refused = await lab.client.post("/timers", json=body)
    assert refused.status_code == 422
    assert "belong to callbacks" in refused.json()["errors"][0]["detail"]


async def test_a_callback_whose_id_is_taken_is_logged(lab: Lab) -> None:
    """It was skipped silently. The timer itself ends."""
    await lab.post("a")
    begun = await lab.begin("a")
    taken = NewTimer(TimerName("default", "a~callback-x-0"), Spec(HOOK, Delay(0)))
    await lab.store.create([taken])
    finish = Finish(begun, Attempt(lab.time.now_ms, 0, 200), End(State.DONE, HOUR_MS, taken))
    with capture_logs() as logs:
        assert (await lab.store.finish([finish])).counted == [True]
    assert [(entry["event"], entry["callback"]) for entry in logs] == [
        ("callback.id_taken", "default:a~callback-x-0")
    ]
    assert (await lab.get("a"))["status"] == "done"


async def running_cron(lab: Lab, **members: Any) -> Begun:
    """A recurring timer in its first run."""
    posted = await lab.post("a", cron="* * * * *", **members)
    lab.time.now_ms = parse_instant_ms(posted["due"])
    begun = await lab.store.begin(
        [WakeUp(NAME, 0, partition=PARTITIONS.place_of(NAME, members.get("ordering_key")))],
        holder="worker:1",
        timeout_ms=1_000,
    )
    assert isinstance(begun[0], Begun)
    return begun[0]


async def end_while_it_runs(lab: Lab) -> None:
    """DELETE; until its attempt is over, the timer runs."""
    for _ in range(2):
        answer = await lab.client.delete("/timers/a")
        assert (answer.status_code, answer.json()) == (200, {"id": "a", "status": "ending", "due": None})
    assert (await lab.get("a"))["status"] == "running"


@pytest.mark.parametrize("key", [None, "lane"])
@pytest.mark.parametrize("then", ["recur", "retry", "done", "hand back", "lost"])
async def test_a_recurring_timer_can_be_ended_while_it_runs(lab: Lab, then: str, key: str | None) -> None:
    """It was a 409, and the timer ran on. Now the attempt ends, and nothing comes after it."""
    begun = await running_cron(lab, retention={"done": 7}, **({"ordering_key": key} if key else {}))
    await end_while_it_runs(lab)
    next_ms = lab.time.now_ms + 60_000
    ends: dict[str, Recur | Retry | End] = {
        "recur": Recur(next_ms),
        "retry": Retry(1_000),
        "done": End(State.DONE, HOUR_MS),
    }
    if then == "lost":
        refusals = []
        for _ in range(6):  # the store was not asked for long: workers may still come back
            lab.time.advance(4_000)
            [refused] = await lab.store.begin([begun.wake_up], holder="worker:2", timeout_ms=1_000)
            assert isinstance(refused, Refused)
            refusals.append(refused.refusal)
        assert refusals[0] is Refusal.RUNNING
        assert refusals[-1] is Refusal.FINISHED
        late = await lab.store.finish([Finish(begun, Attempt(lab.time.now_ms, 0, 200), Recur(next_ms))])
        assert (late.counted, late.known) == ([False], [False])
    elif then == "hand back":
        assert await lab.store.hand_back([(begun, False)]) == [True]
    else:
        finish = Finish(begun, Attempt(lab.time.now_ms, 0, 200), ends[then])
        assert (await lab.store.finish([finish])).counted == [True]
        repeated = await lab.store.finish([finish])
        assert (repeated.counted, repeated.known) == ([False], [True])
        assert len((await lab.get("a"))["last_attempts"]) == 1
    assert (await lab.get("a"))["status"] == "cancelled"
    [again] = await lab.store.begin([begun.wake_up], holder="worker:3", timeout_ms=1_000)
    assert isinstance(again, Refused)
    lab.time.advance(7_000)
    assert (await lab.get("a"))["status"] == "archived"


async def test_the_last_run_is_told(lab: Lab) -> None:
    """Its callback is stored as that of every run."""
    begun = await running_cron(lab)
    await end_while_it_runs(lab)
    callback = NewTimer(TimerName("default", "a~callback-x-0"), Spec(HOOK, Delay(0)))
    finish = Finish(begun, Attempt(lab.time.now_ms, 0, 200), Recur(lab.time.now_ms + 60_000, callback))
    assert (await lab.store.finish([finish])).counted == [True]
    assert (await lab.get("a"))["status"] == "cancelled"
    assert (await lab.get("a~callback-x-0"))["status"] == "scheduled"


async def test_a_timer_that_runs_once_is_not_ended_while_it_runs(lab: Lab) -> None:
    """Nobody could say whether its webhook was called."""
    await lab.bring("a", State.RUNNING, body={"u": '","d":[3,'})
    assert (await lab.client.delete("/timers/a")).status_code == 409


@pytest.mark.parametrize("path", ["", "/attempts", "/explain"])
async def test_who_sees_all_sees_the_same_timer_in_the_list_and_alone(lab: Lab, path: str) -> None:
    """The list showed it, GET said that there never was one."""
    await lab.post("a", application="shop", seconds=60)
    [listed] = (await lab.client.get("/timers")).json()["timers"]
    assert listed["application"] == "shop"
    assert (await lab.client.get(f"/timers/a{path}")).status_code == 200
    assert (await lab.get("a"))["application"] == "shop"
    assert (await lab.client.get(f"/timers/a{path}", params={"application": "blog"})).status_code == 404


async def test_a_timer_of_several_applications_must_be_named(lab: Lab) -> None:
    """Except for that of `default`, which needs no name."""
    for application in ("shop", "blog"):
        await lab.post("a", application=application, seconds=60)
    refused = await lab.client.get("/timers/a")
    assert refused.status_code == 409
    assert "?application=blog: blog, shop have" in refused.json()["detail"]
    await lab.post("a", seconds=60)
    assert (await lab.get("a"))["application"] == "default"


async def test_a_change_meets_no_other_applications_timer(lab: Lab) -> None:
    """Whoever means it names it."""
    await lab.post("a", application="shop", seconds=60)
    assert (await lab.client.delete("/timers/a")).status_code == 404
    assert (await lab.client.post("/timers/a/fire")).status_code == 404
    assert (await lab.get("a", application="shop"))["generation"] == 0
