"""What the client asked for, and its one stored form. Pure."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from dataclasses import fields as dataclass_fields
from typing import Any, Final

import orjson

from httpqueue.errors import InvalidTimerError
from httpqueue.timers.retry import Retry
from httpqueue.timers.schedule import After, At, Cron, Local, Schedule

FIRE: Final = "fire"
SKIP: Final = "skip"
SKIP_GRACE_MS: Final = 10_000
"""With "skip", a timer that is late by no more than this is still sent: workers may be restarted."""


@dataclass(frozen=True, slots=True)
class Callback:
    """Who is told when a timer has finished; `on` holds "done", "failed" or both."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)
    on: tuple[str, ...] = ("done", "failed")


@dataclass(frozen=True, slots=True)
class Retention:
    """How long a finished timer's record is kept; None leaves it to application and settings."""

    done_ms: int | None = None
    failed_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Spec:
    """What the client asked for, as it was given: two posts are the same when their specs are."""

    url: str
    schedule: Schedule
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    """A string is sent as it is, None as an empty body, any other JSON value as JSON."""
    timeout_ms: int | None = None
    retry: Retry | None = None
    callback: Callback | None = None
    ordering_key: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    past_due: str | int = FIRE
    """FIRE, SKIP, or how late in ms it may be fired at most."""
    retention: Retention | None = None

    @property
    def most_lateness_ms(self) -> int | None:
        """How late it may be fired; None: however late."""
        match self.past_due:
            case int(ms):
                return ms
            case "skip":
                return SKIP_GRACE_MS
        return None


def encode_spec(spec: Spec) -> bytes:
    """Spec -> JSON, defaults left out; the URL comes first, lua/common.lua reads the host there."""
    fields: dict[str, Any] = {"url": spec.url, **_schedule_fields(spec.schedule)}
    for name in _OPTIONAL:
        value = getattr(spec, name)
        if value != getattr(_NOTHING, name):
            fields[name] = asdict(value) if name in _NESTED else value
    return orjson.dumps(fields)


def _schedule_fields(schedule: Schedule) -> dict[str, Any]:
    match schedule:
        case After(delay_ms):
            return {"delay_ms": delay_ms}
        case At(fire_at_ms):
            return {"fire_at_ms": fire_at_ms}
        case Local(local, zone):
            return {"local": local, "zone": zone}
        case Cron(expression, zone):
            return {"cron": expression, "zone": zone}


def decode_spec(raw: bytes) -> Spec:
    """The inverse of encode_spec; raises InvalidTimerError on anything else."""
    try:
        fields = orjson.loads(raw)
        url, schedule = fields.pop("url"), _pop_schedule(fields)
        require(str, url)
        if not fields:
            return Spec(url, schedule)
        for name in _NESTED.keys() & fields.keys():
            fields[name] = _NESTED[name](**fields[name])
        spec = Spec(url, schedule, **fields)
        require(str, spec.method, *spec.headers.values(), *spec.labels.values(), spec.ordering_key or "")
        require(int, spec.timeout_ms or 0)
        if spec.past_due not in {FIRE, SKIP}:
            require(int, spec.past_due)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidTimerError(f"unreadable spec: {type(error).__name__}") from error
    return spec


def _pop_schedule(fields: dict[str, Any]) -> Schedule:
    for name, kind in (("delay_ms", After), ("fire_at_ms", At)):
        if name in fields:
            ms = fields.pop(name)
            require(int, ms)
            return kind(ms)
    zone = fields.pop("zone")
    wall_clock = fields.pop("local", None)
    expression = fields.pop("cron") if wall_clock is None else wall_clock
    require(str, zone, expression)
    return Cron(expression, zone) if wall_clock is None else Local(expression, zone)


def _retry(*, delays_ms: list[int] | None, jitter: bool | None, **numbers: int | None) -> Retry:
    require(int, *(number or 0 for number in numbers.values()), *(delays_ms or ()))
    require(bool, jitter or False)
    return Retry(delays_ms=None if delays_ms is None else tuple(delays_ms), jitter=jitter, **numbers)


def _retention(**numbers: int | None) -> Retention:
    require(int, *(number or 0 for number in numbers.values()))
    return Retention(**numbers)


def _callback(*, url: str, headers: dict[str, str], on: list[str]) -> Callback:
    require(str, url, *headers.values(), *on)
    return Callback(url, headers, tuple(on))


_NESTED: Final[dict[str, Callable[..., Any]]] = {
    "retry": _retry,
    "callback": _callback,
    "retention": _retention,
}
_NOTHING: Final = Spec("", After(0))
_OPTIONAL: Final = [each.name for each in dataclass_fields(Spec)][2:]


def require(kind: type, *values: object) -> None:
    """Raises TypeError unless all values are exactly of that type."""
    if {kind} != set(map(type, values)):
        raise TypeError
