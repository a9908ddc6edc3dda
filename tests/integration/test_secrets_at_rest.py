"""Signing secrets in Redis (issue 11, "Secrets"): sealed, never as they are, and read by who has the key."""

from typing import Final

import pytest
from msgspec import structs
from redis.asyncio import Redis
from standardwebhooks.webhooks import Webhook

from httpqueue.errors import StartError
from httpqueue.storage.queue import Queue
from httpqueue.storage.record import encode_policy
from httpqueue.storage.secret_box import SecretBox
from httpqueue.storage.storage import Storage
from httpqueue.timers.policies import ApplicationPolicy
from httpqueue.timers.timer import State
from tests.support.api_lab import Lab
from tests.support.frozen import FrozenTime
from tests.support.keys import PARTITIONS, SECRETS, STORE, Everywhere
from tests.support.pipeline import running
from tests.support.receiver import Receiver

SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
RANDOM: Final = SECRET.removeprefix("whsec_").encode()
OTHER: Final = SecretBox([bytes(32)])


def storage_with(redis: Redis, secrets: SecretBox | None) -> Storage:
    """The same store, as a process with these keys has it."""
    return Storage(redis, archive_error_rate=1e-6, partitions=PARTITIONS, secrets=secrets)


async def policies_in(everywhere: Everywhere, redis: Redis) -> list[bytes]:
    """What every partition has of the default application's policy."""
    keys = everywhere.keys("applications")
    return [await redis.hget(key, "default") for key in keys]  # type: ignore[misc] # redis-py: sync or async


async def test_no_partition_has_a_secret_as_it_is(
    redis: Redis, everywhere: Everywhere, storage: Storage, frozen_storage: Storage, time: FrozenTime
) -> None:
    """Set by the API, kept by a pause, counted in an answer: what Redis has is sealed."""
    lab = Lab(redis, frozen_storage.store, time)
    response = await lab.client.put("/applications/default", json={"secrets": [SECRET, SECRET]})
    assert response.json()["secrets"] == 2
    await lab.client.post("/applications/default/pause")
    found = await policies_in(everywhere, redis)
    assert len(found) == PARTITIONS.count
    for raw in found:
        assert raw.count(b"sealed:1:") == 2
        assert RANDOM not in raw
    policy = await storage.policies.application("default")
    assert [SECRETS.open("default", secret) for secret in policy.secrets] == [SECRET, SECRET]


async def test_without_a_key_secrets_are_refused(redis: Redis, time: FrozenTime) -> None:
    """The answer names the field and the setting; other settings of the application go on."""
    lab = Lab(redis, storage_with(redis, None).store, time)
    response = await lab.client.put("/applications/default", json={"secrets": [SECRET]})
    assert response.status_code == 422
    [error] = response.json()["errors"]
    assert error["field"] == "secrets"
    assert "HTTPQUEUE_SECRETS_KEY" in error["detail"]
    assert not await redis.exists(STORE.applications)
    response = await lab.client.put("/applications/default", json={"retention": {"done": 1}})
    assert response.status_code == 200


async def test_a_worker_without_the_key_sends_nothing_unsigned(
    redis: Redis, storage: Storage, queue: Queue
) -> None:
    """It tries again, so that another worker sends it; GET says what is wrong."""
    await storage.policies.update_application(
        "default", lambda policy: structs.replace(policy, secrets=(SECRET,))
    )
    async with Receiver() as receiver:
        async with running(storage_with(redis, OTHER).store, queue) as pipeline:
            await pipeline.schedule("a", receiver.url)
            timer = await pipeline.until_that("a", lambda timer: timer.last_attempt is not None)
            assert timer.last_attempt
            assert "HTTPQUEUE_SECRETS_KEY" in str(timer.last_attempt.error)
        assert not receiver.requests
        async with running(storage.store, queue) as pipeline:
            [request] = await receiver.wait_for(1)
            await pipeline.until("a", State.DONE)
    headers = {name.lower(): value for name, value in request.headers}
    Webhook(SECRET).verify(request.body, headers, json_parse=False)


async def test_the_start_finds_another_key(redis: Redis, storage: Storage) -> None:
    """One line that names the setting and the application, and nothing of the secret."""
    await storage.policies.update_application("shop", lambda _: ApplicationPolicy(secrets=(SECRET,)))
    await storage.policies.check_secrets(reseals=True)
    for secrets in (OTHER, None):
        with pytest.raises(StartError, match=r"`secrets_key`.* shop .*another key"):
            await storage_with(redis, secrets).policies.check_secrets(reseals=True)


async def test_the_start_seals_what_is_not_or_with_an_old_key(
    redis: Redis, everywhere: Everywhere, storage: Storage
) -> None:
    """Only an API does so, because workers may still have the old settings; then the old key can go."""
    plain = encode_policy(ApplicationPolicy(paused=True, secrets=(SECRET,)))
    for key in everywhere.keys("applications"):
        await redis.hset(key, "default", plain.decode())  # type: ignore[misc] # redis-py: sync or async
    await storage_with(redis, OTHER).policies.check_secrets(reseals=False)
    assert await redis.hget(STORE.applications, "default") == plain  # type: ignore[misc] # as above
    await storage_with(redis, OTHER).policies.check_secrets(reseals=True)
    both = storage_with(redis, SecretBox([bytes(range(32)), bytes(32)]))
    await both.policies.check_secrets(reseals=True)
    await storage.policies.check_secrets(reseals=False)
    for raw in await policies_in(everywhere, redis):
        assert RANDOM not in raw
    assert (await storage.policies.application("default")).paused
