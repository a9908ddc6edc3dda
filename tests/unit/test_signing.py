"""Signatures, checked by the package that receivers use and by the spec's own example."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from httpqueue.clock import now_ms
from httpqueue.webhooks.signing import MAX_BYTES, MIN_BYTES, check_secret, signature

EXAMPLE = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def secret_of(size: int) -> str:
    """With so many bytes."""
    return "whsec_" + base64.b64encode(bytes(range(size))).decode()


def test_the_example_of_the_spec() -> None:
    """Secret, id, timestamp and body of the reference implementations' tests."""
    signed = signature(
        [EXAMPLE],
        webhook_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp_s=1_614_265_330,
        body=b'{"test": 2432232314}',
    )
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@given(
    webhook_id=st.text("abcXYZ019._~-:", min_size=1, max_size=40),
    value=st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner, max_size=3)),
    secrets=st.lists(st.binary(min_size=MIN_BYTES, max_size=MAX_BYTES), min_size=1, max_size=2, unique=True),
)
def test_whoever_has_one_of_the_secrets_can_verify(webhook_id: str, value: Any, secrets: list[bytes]) -> None:
    """One v1 signature a secret, in their order; whatever else was sent than was signed is refused."""
    written = ["whsec_" + base64.b64encode(secret).decode() for secret in secrets]
    timestamp_s = now_ms() // 1000
    body = json.dumps(value)
    signed = signature(written, webhook_id=webhook_id, timestamp_s=timestamp_s, body=body.encode())
    headers = {"webhook-id": webhook_id, "webhook-timestamp": str(timestamp_s), "webhook-signature": signed}
    assert len(signed.split()) == len(secrets)
    for secret, only in zip(written, signed.split(), strict=True):
        assert Webhook(secret).verify(body, headers) == value
        assert Webhook(secret).verify(body, {**headers, "webhook-signature": only}) == value
        for forged in ({"webhook-id": "other"}, {"webhook-timestamp": str(timestamp_s - 1)}):
            with pytest.raises(WebhookVerificationError):
                Webhook(secret).verify(body, {**headers, **forged})
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(body + " ", headers)


@pytest.mark.parametrize("size", [MIN_BYTES, 32, MAX_BYTES])
def test_secrets_as_the_spec_wants_them(size: int) -> None:
    """Are kept as they are."""
    assert check_secret(secret_of(size)) == secret_of(size)


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        secret_of(MIN_BYTES - 1),
        secret_of(MAX_BYTES + 1),
        secret_of(32).removeprefix("whsec_"),
        secret_of(32) + "\n",
        secret_of(32).rstrip("="),
        "whsec_" + "ä" * 44,
        "whsec_" + "-_" * 22,
    ],
)
def test_other_secrets_are_refused_and_never_repeated(secret: str) -> None:
    """Too short, too long, no prefix, no base64."""
    with pytest.raises(ValueError, match="must be whsec_ and 24 to 64 random bytes in base64") as refused:
        check_secret(secret)
    assert len(secret) < 10 or secret not in str(refused.value)
