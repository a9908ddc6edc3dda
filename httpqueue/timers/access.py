"""Who may do what, and how often: API keys, what they permit, and the limit on requests. Pure."""

import hashlib
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import orjson

_KEY_PREFIX: Final = "hq_"
"""Lets people and secret scanners see what they have found."""
_KEY_BYTES: Final = 24
_ID_BYTES: Final = 4
_MAX_CLIENTS: Final = 100_000
_ROUNDING_S: Final = 1e-9


class Scope(StrEnum):
    """What a key may do; each scope includes those before it."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"

    def includes(self, other: "Scope") -> bool:
        """Whether whoever has this scope may do what needs the other."""
        order = list(Scope)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True, slots=True)
class Grant:
    """What one key permits; the id names it without being secret."""

    id: str
    application: str | None
    """None: every application, and what concerns all of them."""
    scope: Scope


def new_key() -> str:
    """A key: hq_ and 32 URL-safe characters, 192 random bits."""
    return _KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)


def new_id() -> str:
    """A key's name for lists and revocation: 8 hexadecimal digits."""
    return secrets.token_hex(_ID_BYTES)


def hash_key(text: str) -> str:
    """SHA-256 in hexadecimal digits, which is what is stored of a key.

    A fast hash is right here. Slow ones protect passwords, which are few enough to be guessed; nobody can
    try 2**192 keys, whatever a try costs, and each request pays for one hash.
    """
    return hashlib.sha256(text.encode()).hexdigest()


def encode_grant(grant: Grant, created_ms: int) -> bytes:
    """What is stored beside a key's hash: JSON {id, application, scope, created_ms}."""
    return orjson.dumps(
        {
            "id": grant.id,
            "application": grant.application,
            "scope": grant.scope,
            "created_ms": created_ms,
        }
    )


def decode_grant(stored: bytes) -> tuple[Grant, int] | None:
    """(grant, created_ms), or None when it cannot be read: such a key exists but permits nothing."""
    try:
        match orjson.loads(stored):
            case {
                "id": str(key_id),
                "application": str() | None as application,
                "scope": scope,
                "created_ms": int(created_ms),
            }:
                return Grant(key_id, application, Scope(scope)), created_ms
    except ValueError:
        pass
    return None


def permits(grant: Grant, scope: Scope, application: str | None) -> bool:
    """Whether the grant suffices for this application; None stands for what concerns all of them."""
    return grant.scope.includes(scope) and grant.application in {None, application}


class RateLimit:
    """One token bucket a client, full at first: `burst` requests at once, `rate` per second in the long run.

    A bucket is kept as the instant at which it is full again (the generic cell rate algorithm), and is
    forgotten once it is full; so memory holds the clients of the last burst/rate seconds, and never more than
    _MAX_CLIENTS of them.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._token_s = 1 / rate
        self._burst_s = burst / rate
        self._full_at_s: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        """Clients that are remembered."""
        return len(self._full_at_s)

    def decide(self, client: str, now_s: float) -> float:
        """0 when the request may pass, else how many seconds to wait first; now_s never goes back."""
        full_at_s = max(self._full_at_s.get(client, now_s), now_s) + self._token_s
        wait_s = full_at_s - now_s - self._burst_s
        if wait_s > _ROUNDING_S:
            return wait_s
        self._full_at_s[client] = full_at_s
        self._full_at_s.move_to_end(client)
        self._forget(now_s)
        return 0

    def _forget(self, now_s: float) -> None:
        while self._full_at_s:  # the first has been idle longest
            client, full_at_s = next(iter(self._full_at_s.items()))
            if full_at_s > now_s and len(self._full_at_s) <= _MAX_CLIENTS:
                return
            del self._full_at_s[client]
