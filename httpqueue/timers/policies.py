"""What operators say of applications and destinations. Pure; storage/record.py has its stored form."""

from msgspec import Struct

from httpqueue.timers.spec import Retention


class ApplicationPolicy(Struct, frozen=True, omit_defaults=True):
    """How an application's timers are treated; None leaves it to the settings."""

    paused: bool = False
    retention_done_ms: int | None = None
    retention_failed_ms: int | None = None
    secrets: tuple[str, ...] = ()
    """Standard Webhooks secrets (whsec_…), the current one first, then the one before it."""

    def __repr__(self) -> str:
        return f"ApplicationPolicy(paused={self.paused}, secrets={len(self.secrets)})"

    @property
    def retention(self) -> Retention:
        """Its part of the retention times."""
        return Retention(self.retention_done_ms, self.retention_failed_ms)


class DestinationPolicy(Struct, frozen=True, omit_defaults=True):
    """How a host may be called; None: without limit."""

    paused: bool = False
    rate: float | None = None
    """Calls a second."""
    concurrency: int | None = None
    """Calls at once."""
