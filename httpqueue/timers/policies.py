"""The policies that operators set for applications and destinations. Pure. Encoded by storage/record.py."""

from msgspec import Struct

from httpqueue.timers.spec import Retention


class ApplicationPolicy(Struct, frozen=True, omit_defaults=True):
    """The policy of an application. A retention of None: as the settings say. A limit of None: no limit."""

    paused: bool = False
    is_deleted: bool = False
    """A job is deleting the application: it takes no new timers."""
    retention_done_ms: int | None = None
    retention_failed_ms: int | None = None
    secrets: tuple[str, ...] = ()
    """Standard Webhooks secrets (whsec_…): the current one, then the previous one.

    They are sealed (storage/secret_box.py), except in a policy that is to be stored and in that of a Begun.
    """
    max_pending: int | None = None
    """The most timers that are scheduled or running."""
    max_bytes: int | None = None
    """The most bytes that the records of its timers may have, ended ones included."""
    max_rate: float | None = None
    """The most timers that may be posted per second."""

    def __repr__(self) -> str:
        return f"ApplicationPolicy(paused={self.paused}, secrets={len(self.secrets)})"

    @property
    def retention(self) -> Retention:
        """The retention times of the policy."""
        return Retention(self.retention_done_ms, self.retention_failed_ms)


class DestinationPolicy(Struct, frozen=True, omit_defaults=True):
    """The policy of a destination (a host). None: no limit."""

    paused: bool = False
    rate: float | None = None
    """The most calls per second."""
    concurrency: int | None = None
    """The most calls at the same time."""
