"""The store: every transition of a timer, one typed method a script."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from httpqueue.timer import Spec, Timer


@dataclass(frozen=True, slots=True)
class NewTimer:
    """A timer to be stored."""

    application: str
    id: str
    spec: Spec


class Creation(StrEnum):
    """What create did: stored it, found the same one, or found another one under its id."""

    CREATED = "created"
    EXISTS = "exists"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Created:
    """The answer to one NewTimer; due_ms is that of the timer which now has the id."""

    creation: Creation
    due_ms: int


@dataclass(frozen=True, slots=True)
class Found:
    """A timer and the store's time at which it was read."""

    timer: Timer
    now_ms: int


class Store:
    async def create(self, timers: Sequence[NewTimer]) -> list[Created]:
        raise NotImplementedError

    async def get(self, application: str, timer_id: str) -> Found | None:
        """The record, or None when there is none (then ask is_archived)."""
        raise NotImplementedError

    async def is_archived(self, application: str, timer_id: str) -> bool:
        raise NotImplementedError

    async def ping(self) -> None:
        """Raises errors.UnavailableError with the reason."""
        raise NotImplementedError
