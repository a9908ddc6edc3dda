"""What the client asked for. Pure; storage/record.py has its stored form."""

from typing import Any, Final, Literal

from msgspec import Struct

from httpqueue.timers.names import host_of
from httpqueue.timers.retry import RetryOptions
from httpqueue.timers.schedule import Schedule

FIRE: Final = "fire"
SKIP: Final = "skip"
SKIP_GRACE_MS: Final = 10_000
"""With "skip", a timer that is late by no more than this is still sent: workers may be restarted."""


class Callback(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Who is told when a timer has finished; `on` holds "done", "failed" or both."""

    url: str
    headers: dict[str, str] = {}
    on: tuple[str, ...] = ("done", "failed")


class Retention(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """How long a finished timer's record is kept; None leaves it to application and settings."""

    done_ms: int | None = None
    failed_ms: int | None = None


class Spec(
    Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, rename={"schedule": "d", "url": "u"}
):
    """What the client asked for, as it was given: two posts are the same when their specs are."""

    url: str
    schedule: Schedule
    method: str = "POST"
    headers: dict[str, str] = {}
    body: Any = None
    """A string is sent as it is, None as an empty body, any other JSON value as JSON."""
    timeout_ms: int | None = None
    retry: RetryOptions | None = None
    callback: Callback | None = None
    ordering_key: str | None = None
    labels: dict[str, str] = {}
    past_due: Literal["fire", "skip"] | int = FIRE
    """FIRE, SKIP, or how late in ms it may be fired at most."""
    retention: Retention | None = None

    @property
    def host(self) -> str:
        """The host of its URL, in the form of names.host_of."""
        return host_of(self.url)

    @property
    def most_lateness_ms(self) -> int | None:
        """How late it may be fired; None: however late."""
        match self.past_due:
            case int(ms):
                return ms
            case "skip":
                return SKIP_GRACE_MS
        return None
