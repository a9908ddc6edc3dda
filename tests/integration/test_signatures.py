"""Signatures of webhooks, verified by the standardwebhooks package as receivers use it."""

import base64
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from msgspec import structs
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from httpqueue.storage.queue import Queue
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import NewTimer
from httpqueue.timers.names import DEFAULT_APPLICATION, TimerName
from httpqueue.timers.policies import ApplicationPolicy
from httpqueue.timers.schedule import Delay
from httpqueue.timers.spec import Callback, Spec
from httpqueue.timers.timer import State
from tests.support.frozen import storage_of
from tests.support.pipeline import running
from tests.support.receiver import Received, Receiver, Reply

OLD, NEW, OTHER = ("whsec_" + base64.b64encode(bytes([n]) * 32).decode() for n in range(3))


async def sign_with(store: Store, *secrets: str) -> None:
    """Have the default application's webhooks signed."""
    await storage_of(store).policies.update_application(
        DEFAULT_APPLICATION, lambda policy: structs.replace(policy, secrets=secrets)
    )


def verify(secret: str, request: Received, body: bytes | None = None) -> object:
    """What a receiver does."""
    headers = {name.lower(): value for name, value in request.headers}
    return Webhook(secret).verify(request.body if body is None else body, headers)


@pytest.mark.parametrize("body", [{"n": 1, "ü": "€😀"}, '{"as it is": "é" }', "[]"])
async def test_a_receiver_can_verify_what_it_got(store: Store, queue: Queue, body: object) -> None:
    """With its secret, and with no other; not with another body, nor with another id."""
    await sign_with(store, NEW)
    async with Receiver() as receiver, running(store, queue) as pipeline:
        await pipeline.schedule("a", receiver.url, body=body)
        [request] = await receiver.wait_for(1)
        await pipeline.until("a", State.DONE)
    verify(NEW, request)
    for secret, forged in ((OTHER, request.body), (NEW, request.body + b" ")):
        with pytest.raises(WebhookVerificationError):
            verify(secret, request, forged)
    headers = [(name, "b:0" if name.lower() == "webhook-id" else value) for name, value in request.headers]
    with pytest.raises(WebhookVerificationError):
        verify(NEW, replace(request, headers=headers))


async def test_an_empty_body_is_signed(store: Store, queue: Queue) -> None:
    """The package wants JSON to return; what counts is the signature."""
    await sign_with(store, NEW)
    async with Receiver() as receiver, running(store, queue) as pipeline:
        await pipeline.schedule("a", receiver.url)
        [request] = await receiver.wait_for(1)
        await pipeline.until("a", State.DONE)
    signed = Webhook(NEW).sign(request.header("webhook-id") or "", _moment(request), "")
    assert request.header("webhook-signature") == signed


def _moment(request: Received) -> datetime:

    return datetime.fromtimestamp(int(request.header("webhook-timestamp") or 0), tz=UTC)


async def test_while_secrets_are_rotated_both_verify(store: Store, queue: Queue) -> None:
    """Two signatures in one header; when the old secret is gone, its receivers no longer verify."""
    await sign_with(store, NEW, OLD)
    async with Receiver() as receiver, running(store, queue) as pipeline:
        await pipeline.schedule("a", receiver.url, body={})
        await pipeline.until("a", State.DONE)
        await sign_with(store, NEW)
        await pipeline.schedule("b", receiver.url, body={})
        await pipeline.until("b", State.DONE)
        rotating, rotated = await receiver.wait_for(2)
    assert len((rotating.header("webhook-signature") or "").split()) == 2
    verify(NEW, rotating)
    verify(OLD, rotating)
    verify(NEW, rotated)
    with pytest.raises(WebhookVerificationError):
        verify(OLD, rotated)


async def test_without_a_secret_nothing_is_signed(store: Store, queue: Queue) -> None:
    """Neither for an application that has no settings nor for one that has others."""
    await storage_of(store).policies.update_application(
        "tenant", lambda _: ApplicationPolicy(retention_done_ms=5_000)
    )
    await sign_with(store, NEW)
    async with Receiver() as receiver, running(store, queue):
        for application in ("tenant", "unknown"):
            await store.create([NewTimer(TimerName(application, "a"), Spec(receiver.url, Delay(0), body={}))])
        requests = await receiver.wait_for(2)
    assert [request.header("webhook-signature") for request in requests] == [None, None]
    assert sorted(request.run for request in requests) == ["tenant:a:0", "unknown:a:0"]


async def test_each_attempt_is_signed_for_its_own_time(store: Store, queue: Queue) -> None:
    """A retry is as fresh as a first attempt, and has the same message id."""
    await sign_with(store, NEW)
    async with Receiver() as receiver, running(store, queue) as pipeline:
        receiver.answer(Reply(503), Reply(200))
        await pipeline.schedule("a", receiver.url, body={})
        requests = await receiver.wait_for(2)
        await pipeline.until("a", State.DONE)
    for request in requests:
        verify(NEW, request)
        assert request.run == "default:a:0"
    assert len({request.header("webhook-id") for request in requests}) == 1


async def test_callbacks_are_signed(store: Store, queue: Queue) -> None:
    """By the same application's secret."""
    await sign_with(store, NEW)
    async with Receiver() as receiver, running(store, queue) as pipeline:
        await pipeline.schedule("a", receiver.url, callback=Callback(f"{receiver.url}/told"))
        [told] = await receiver.wait_for(1, path="/told")
        await pipeline.until_all_finished()
    verify(NEW, told)
