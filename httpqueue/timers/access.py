"""API keys, what each key may do, and the rate limit of requests. Pure."""

import hashlib
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import orjson

_KEY_PREFIX: Final = "hq_"
"""Lets people and secret scanners recognise a key."""
_KEY_BYTES: Final = 24
_ID_BYTES: Final = 4
_MAX_CLIENTS: Final = 100_000
_ROUNDING_S: Final = 1e-9


class Scope(StrEnum):
    """What a key may do. Each scope includes the scopes before it."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"

    def includes(self, other: "Scope") -> bool:
        """Whether this scope permits everything that the other one permits."""
        order = list(Scope)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True, slots=True)
class Grant:
    """What one key permits. The id is not secret."""

    id: str
    application: str | None
    """None: every application, and everything that concerns all applications."""
    scope: Scope
    expires_ms: int | None = None
    """From this instant on, the key permits nothing; ms since the epoch. None: it never ends."""

    def has_expired(self, now_ms: int) -> bool:
        """Whether the key has ended."""
        return self.expires_ms is not None and self.expires_ms <= now_ms


def new_key() -> str:
    """A key: hq_ and 32 URL-safe characters, 192 random bits."""
    return _KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)


def new_id() -> str:
    """The id of a key, for lists and revocation: 8 hexadecimal digits."""
    return secrets.token_hex(_ID_BYTES)


def hash_key(text: str) -> str:
    """The stored form of a key: its SHA-256 in hexadecimal digits.

    A fast hash is right here, because every request computes one. Slow hashes protect passwords, which can be
    guessed. Nobody can guess one of 2**192 keys, however fast the hash is.
    """
    return hashlib.sha256(text.encode()).hexdigest()


def encode_grant(grant: Grant, created_ms: int) -> bytes:
    """The stored form of a grant: JSON {id, application, scope, expires_ms, created_ms}."""
    return orjson.dumps(
        {
            "id": grant.id,
            "application": grant.application,
            "scope": grant.scope,
            "expires_ms": grant.expires_ms,
            "created_ms": created_ms,
        }
    )


def decode_grant(stored: bytes) -> tuple[Grant, int] | None:
    """(grant, created_ms), or None if nobody can read it. Such a key exists but permits nothing."""
    try:
        match orjson.loads(stored):
            case {
                "id": str(key_id),
                "application": str() | None as application,
                "scope": scope,
                "created_ms": int(created_ms),
                **others,
            } if isinstance(expires_ms := others.get("expires_ms"), int | None):
                return Grant(key_id, application, Scope(scope), expires_ms), created_ms
    except ValueError:
        pass
    return None


def permits(grant: Grant, scope: Scope, application: str | None) -> bool:
    """Whether the grant permits this in an application. None: what concerns all applications."""
    return grant.scope.includes(scope) and grant.application in {None, application}


class RateLimit:
    """A token bucket for each client: `burst` requests at once, then `rate` requests per second.

    A bucket is stored as the instant at which it is full again (the generic cell rate algorithm). Full
    buckets are deleted, so memory holds the clients of the last burst/rate seconds, and at most _MAX_CLIENTS
    of them.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._token_s = 1 / rate
        self._burst_s = burst / rate
        self._full_at_s: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        """The number of buckets in memory."""
        return len(self._full_at_s)

    def decide(self, client: str, now_s: float) -> float:
        """0 if the request may pass, otherwise the seconds to wait first. now_s must never go back."""
        full_at_s = max(self._full_at_s.get(client, now_s), now_s) + self._token_s
        wait_s = full_at_s - now_s - self._burst_s
        if wait_s > _ROUNDING_S:
            return wait_s
        self._full_at_s[client] = full_at_s
        self._full_at_s.move_to_end(client)
        self._forget(now_s)
        return 0

    def _forget(self, now_s: float) -> None:
        while self._full_at_s:  # the first client has been idle longest
            client, full_at_s = next(iter(self._full_at_s.items()))
            if full_at_s > now_s and len(self._full_at_s) <= _MAX_CLIENTS:
                return
            del self._full_at_s[client]
