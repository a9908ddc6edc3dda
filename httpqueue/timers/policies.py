"""What operators say of applications and destinations, and its stored form. Pure."""

from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

import orjson

from httpqueue.timers.spec import Retention


@dataclass(frozen=True, slots=True)
class Application:
    """How an application's timers are treated; None leaves it to the settings."""

    paused: bool = False
    retention_done_ms: int | None = None
    retention_failed_ms: int | None = None
    secrets: tuple[str, ...] = ()
    """Standard Webhooks secrets (whsec_…), the current one first, then the one before it."""

    def __repr__(self) -> str:
        return f"Application(paused={self.paused}, secrets={len(self.secrets)})"

    @property
    def retention(self) -> Retention:
        """Its part of the retention times."""
        return Retention(self.retention_done_ms, self.retention_failed_ms)


@dataclass(frozen=True, slots=True)
class Destination:
    """How a host may be called; None: without limit."""

    paused: bool = False
    rate: float | None = None
    """Calls a second."""
    concurrency: int | None = None
    """Calls at once."""


PolicyT = TypeVar("PolicyT", Application, Destination)


def encode_policy(policy: Application | Destination) -> bytes:
    """Policy -> JSON, defaults left out."""
    default = type(policy)()
    return orjson.dumps(
        {name: value for name, value in asdict(policy).items() if value != getattr(default, name)}
    )


def decode_policy(kind: type[PolicyT], raw: bytes) -> PolicyT:
    """The inverse of encode_policy, which also made `raw`; an empty one says nothing."""
    values: dict[str, Any] = orjson.loads(raw) if raw else {}
    if "secrets" in values:
        values["secrets"] = tuple(values["secrets"])
    known = {field.name for field in fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in known})
