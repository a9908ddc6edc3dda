"""Our HTTP/1.1 client's connections: how they are reused, how old and how many they get, and who waits."""

import asyncio

import pytest

from httpqueue.webhooks.client.http1 import pool
from httpqueue.webhooks.client.http1.dial import Dialer
from httpqueue.webhooks.client.http1.pool import IDLE_S, Limits
from httpqueue.webhooks.client.http1.sender import Http1Sender
from httpqueue.webhooks.message import Fault, Response, SendError
from tests.support.http1 import PLAIN, TIMEOUT_S, Network, Now, Results, call, fault, outcome
from tests.support.receiver import Received, Receiver, Reply, Writer, hang, raw, reply_when

OK = Response(200)


# --- reuse ---


async def test_the_connection_that_was_free_last_is_used_first(sender: Http1Sender) -> None:
    """So that those that are too many get old and go."""
    used: list[Writer] = []
    go = asyncio.Event()

    async def note(request: Received, writer: Writer) -> None:
        used.append(writer)
        if request.path == "/first":
            await go.wait()
        writer.write(Reply(200).encode())

    async with Receiver() as receiver:
        receiver.answer(note)
        first = asyncio.create_task(outcome(sender, f"{receiver.url}/first"))
        await receiver.wait_for(1)
        assert await outcome(sender, receiver.url) == OK
        go.set()
        assert await first == OK
        assert await outcome(sender, receiver.url) == OK
        assert used[2] is used[0]
        assert receiver.connections == 2


@pytest.mark.parametrize(("idle_s", "connections"), [(IDLE_S - 0.01, 1), (IDLE_S, 2)])
async def test_no_connection_is_used_after_4_s(receiver: Receiver, idle_s: float, connections: int) -> None:
    """Receivers drop theirs after 5 s: a request on its way then would be lost."""
    now = Now()
    sender = Http1Sender(PLAIN, now_s=now)
    assert await outcome(sender, receiver.url) == OK
    now.s += idle_s
    assert await outcome(sender, receiver.url) == OK
    assert receiver.connections == connections
    await sender.close()


async def test_idle_connections_are_closed(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any call that looks at them, and before they are too old."""
    monkeypatch.setattr(pool, "SWEEP_S", 0.01)
    now = Now()
    sender = Http1Sender(PLAIN, now_s=now)
    assert await outcome(sender, receiver.url) == OK
    now.s += IDLE_S - 0.01
    await receiver.wait_for_disconnect()
    await sender.close()


async def test_young_connections_survive_the_sweep(receiver: Receiver) -> None:
    """Only the old ones go."""
    now = Now()
    sender = Http1Sender(PLAIN, now_s=now)
    assert await outcome(sender, receiver.url) == OK
    now.s += 3
    sender._pool.sweep()
    assert await outcome(sender, receiver.url) == OK
    assert receiver.connections == 1
    await sender.close()


async def test_origins_do_not_share_connections(sender: Http1Sender, receiver: Receiver) -> None:
    """Another port or name is another receiver."""
    async with Receiver() as other:
        for url in (receiver.url, other.url, receiver.url.replace("127.0.0.1", "localhost")):
            assert await outcome(sender, url) == OK
        assert (receiver.connections, other.connections) == (2, 1)


# --- bounds ---


async def test_beyond_the_bound_of_an_origin_calls_wait_in_a_line(receiver: Receiver) -> None:
    """First come, first served; one that was cancelled meanwhile is left out."""
    sender, results, go = Http1Sender(PLAIN, Limits(per_origin=1)), Results(), asyncio.Event()
    receiver.answer(reply_when(go, Reply(200)))
    calls = [sender.start(call(f"{receiver.url}/{n}"), TIMEOUT_S, results.add) for n in range(5)]
    await receiver.wait_for(1)
    calls[2].cancel()
    go.set()
    assert await results.wait_for(4) == [OK] * 4
    assert [request.path for request in receiver.requests] == ["/0", "/1", "/3", "/4"]
    assert receiver.connections == 1
    assert not calls[2].written
    await sender.close()


async def test_a_place_that_gets_free_by_a_failure_is_used(receiver: Receiver) -> None:
    """A connection that breaks serves the line, too: the next call gets a new one."""
    sender, results = Http1Sender(PLAIN, Limits(per_origin=1)), Results()
    receiver.answer(raw(b""), raw(b"garbage"), Reply(200))
    for n in range(3):
        sender.start(call(f"{receiver.url}/{n}"), TIMEOUT_S, results.add)
    first, second, third = await results.wait_for(3)
    assert isinstance(first, SendError)
    assert isinstance(second, SendError)
    assert third == OK
    assert receiver.connections == 3
    await sender.close()


async def test_a_call_waits_within_its_own_deadline(receiver: Receiver) -> None:
    """It has not been sent then, and its error says so."""
    sender = Http1Sender(PLAIN, Limits(per_origin=1))
    receiver.answer(hang)
    blocking = sender.start(call(receiver.url), TIMEOUT_S, Results().add)
    error = await fault(sender, receiver.url, timeout_s=0.05)
    assert (error.fault, error.message) == (Fault.TIMEOUT, "no free connection within 0.05 s")
    assert len(await receiver.wait_for(1)) == 1
    blocking.cancel()
    await sender.close()


async def test_a_place_is_free_again_when_its_call_is_given_up(receiver: Receiver) -> None:
    """While it connects and while it waits for an answer; an origin without connections is forgotten."""
    network = Network()
    sender = Http1Sender(Dialer(connect=network.connect, tls=PLAIN.tls), Limits(total=1))
    receiver.answer(hang, Reply(200))
    for _ in range(2):
        assert (await fault(sender, receiver.url, timeout_s=0.05)).fault is Fault.TIMEOUT
    network.open_to = ["127.0.0.1"]
    assert (await fault(sender, receiver.url, timeout_s=0.05)).fault is Fault.TIMEOUT
    assert await outcome(sender, receiver.url) == OK
    await sender.close()
    assert sender._pool._lines == {}


async def test_an_idle_connection_gives_way_to_another_origin(receiver: Receiver) -> None:
    """The bound of all connections counts those in use only as long as others need the place."""
    sender = Http1Sender(PLAIN, Limits(total=1), now_s=Now())
    async with Receiver() as other:
        for each in (receiver, other, receiver):
            assert await outcome(sender, each.url) == OK
        assert (receiver.connections, other.connections) == (2, 1)
    await sender.close()


async def test_beyond_the_bound_of_all_the_longest_waiting_call_comes_first(receiver: Receiver) -> None:
    """A busy origin does not keep its connections while another one waits."""
    sender, go = Http1Sender(PLAIN, Limits(total=1, per_origin=1)), asyncio.Event()
    order: list[str] = []
    receiver.answer(reply_when(go, Reply(200)))
    results = Results()

    def start(name: str, url: str) -> None:
        def on_done(result: Response | SendError) -> None:
            order.append(name)
            results.add(result)

        sender.start(call(url), TIMEOUT_S, on_done)

    async with Receiver() as other:
        start("busy 1", receiver.url)
        start("busy 2", receiver.url)
        start("other 1", other.url)
        start("other 2", other.url)
        await receiver.wait_for(1)
        go.set()
        assert await results.wait_for(4) == [OK] * 4
        assert len(other.requests) == 2
    assert order == ["busy 1", "other 1", "other 2", "busy 2"]
    await sender.close()


async def test_never_more_connections_than_the_bounds(receiver: Receiver) -> None:
    """Whatever comes and goes: two origins, 40 calls, answers that keep and answers that close."""
    sender = Http1Sender(PLAIN, Limits(total=3, per_origin=2))
    most = 0

    async def count(request: Received, writer: Writer) -> None:
        nonlocal most
        most = max(most, len(receiver._open) + len(other._open))
        close = int(request.path[1:]) % 3 == 0
        writer.write(Reply(200, headers=(("connection", "close"),) if close else ()).encode())

    async with Receiver() as other:
        receiver.answer(count)
        other.answer(count)
        urls = [f"{(receiver, other)[n % 2].url}/{n}" for n in range(40)]
        assert await asyncio.gather(*(outcome(sender, url) for url in urls)) == [OK] * 40
    assert 0 < most <= 3
    await sender.close()


async def test_a_call_given_up_before_it_dials_gives_its_place_back(receiver: Receiver) -> None:
    """The task that would have dialled for it is cancelled before its first step."""
    receiver.answer(hang, Reply(200))
    sender = Http1Sender(PLAIN, Limits(per_origin=1))
    results = Results()
    first = sender.start(call(receiver.url), timeout_s=TIMEOUT_S, on_done=results.add)
    second = sender.start(call(receiver.url), timeout_s=TIMEOUT_S, on_done=results.add)
    await receiver.wait_for(1)
    first.cancel()  # its connection is closed, and the second one's task created
    second.cancel()
    assert await outcome(sender, receiver.url) == OK
    await sender.close()
