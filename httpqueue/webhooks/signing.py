"""Signs webhooks as the Standard Webhooks spec says (v1, HMAC-SHA256). Pure."""

import binascii
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from standardwebhooks.webhooks import Webhook

PREFIX: Final = "whsec_"
MIN_BYTES: Final = 24
MAX_BYTES: Final = 64
"""The most bytes of a decoded secret. Both limits are those of the spec."""


@lru_cache(maxsize=1_024)
def _signer(secret: str) -> Webhook:
    return Webhook(secret)


def check_secret(secret: str) -> str:
    """Return the secret unchanged if it is valid. Raises ValueError, whose text never has the secret."""
    encoded = secret.removeprefix(PREFIX)
    try:
        decoded = binascii.a2b_base64(encoded, strict_mode=True)
    except ValueError:
        decoded = b""
    if encoded == secret or not MIN_BYTES <= len(decoded) <= MAX_BYTES:
        raise ValueError(f"must be {PREFIX} and {MIN_BYTES} to {MAX_BYTES} random bytes in base64")
    return secret


def signature(secrets: Sequence[str], *, webhook_id: str, timestamp_s: int, body: bytes) -> str:
    """The value of webhook-signature: one v1 signature for each secret, separated by spaces."""
    moment = datetime.fromtimestamp(timestamp_s, tz=UTC)
    text = body.decode()  # bodies are JSON or text
    return " ".join(_signer(secret).sign(webhook_id, moment, text) for secret in secrets)
