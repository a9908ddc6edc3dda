"""The spec of a timer: what the client asked for. Pure. storage/record.py encodes it."""

from typing import Any, Final, Literal

from msgspec import Struct

from httpqueue.timers.names import host_of, without_query
from httpqueue.timers.retry import RetryOptions
from httpqueue.timers.schedule import Schedule

FIRE: Final = "fire"
SKIP: Final = "skip"
SKIP_GRACE_MS: Final = 10_000
"""With "skip", a timer is still sent if it is late by no more than this, as after a worker's restart."""


class Callback(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The URL to call when a timer has finished. `on` has "done", "failed" or both."""

    url: str
    headers: dict[str, str] = {}
    on: tuple[str, ...] = ("done", "failed")

    def __repr__(self) -> str:
        return f"Callback({without_query(self.url)})"


class Retention(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """How long a finished timer's record is kept, in ms. None: as the application or the settings say."""

    done_ms: int | None = None
    failed_ms: int | None = None


class Spec(
    Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, rename={"schedule": "d", "url": "u"}
):
    """What the client asked for. Two posts with the same id are the same if their specs are equal."""

    url: str
    schedule: Schedule
    method: str = "POST"
    headers: dict[str, str] = {}
    body: Any = None
    """A string is sent unchanged, None as an empty body, any other JSON value as JSON."""
    timeout_ms: int | None = None
    retry: RetryOptions | None = None
    callback: Callback | None = None
    ordering_key: str | None = None
    labels: dict[str, str] = {}
    past_due: Literal["fire", "skip"] | int = FIRE
    """Send a late timer? FIRE: always. SKIP: up to SKIP_GRACE_MS late. A number: up to so many ms late."""
    retention: Retention | None = None

    def __repr__(self) -> str:
        """Without headers, body and query, which may hold credentials."""
        return f"Spec({self.method} {without_query(self.url)}, {self.schedule})"

    @property
    def host(self) -> str:
        """The destination: the host of the URL, as names.host_of gives it."""
        return host_of(self.url)

    @property
    def most_lateness_ms(self) -> int | None:
        """How late it may be sent, in ms. None: however late."""
        match self.past_due:
            case int(ms):
                return ms
            case "skip":
                return SKIP_GRACE_MS
        return None
