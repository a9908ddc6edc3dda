"""The audit log: who changed what over the API. Pure. storage/audit.py keeps it."""

from dataclasses import dataclass
from typing import NamedTuple


class AuditEntry(NamedTuple):
    """One change. '' stands for nothing, as where it concerns no application."""

    key_id: str
    """The id of the API key; '' when nobody needed one."""
    action: str
    """The name of the API's operation, such as cancelTimer."""
    application: str
    target: str
    """What was changed: the id of a timer, a host, and so on."""
    status: int
    """The HTTP status of the answer. From 500 on, nobody knows whether the change was made."""
    is_setting: bool
    """Whether it is a change that needs the scope admin."""
    at_ms: int = 0
    """When it was written down, by the store's clock, in ms since the epoch."""


class AuditPosition(NamedTuple):
    """A place in the log: the entries before these ids of Redis streams come next."""

    timers: str
    settings: str


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Entries, the latest first, and where the next page begins; None when there is none."""

    entries: list[AuditEntry]
    next: AuditPosition | None
