"""What the client asked for, and its one stored form. Pure."""

from dataclasses import asdict, dataclass, field
from typing import Any, Final

import orjson

from httpqueue.backoff import Retry
from httpqueue.errors import InvalidTimerError
from httpqueue.schedule import After, At, Cron, Local, Schedule

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
    fields: dict[str, Any] = {"url": spec.url}
    match spec.schedule:
        case After(delay_ms):
            fields["delay_ms"] = delay_ms
        case At(fire_at_ms):
            fields["fire_at_ms"] = fire_at_ms
        case Local(local, zone):
            fields["local"], fields["zone"] = local, zone
        case Cron(expression, zone):
            fields["cron"], fields["zone"] = expression, zone
    if spec.method != "POST":
        fields["method"] = spec.method
    if spec.past_due != FIRE:
        fields["past_due"] = spec.past_due
    for name in ("headers", "labels"):
        if value := getattr(spec, name):
            fields[name] = value
    for name in ("body", "timeout_ms", "ordering_key"):
        if (value := getattr(spec, name)) is not None:
            fields[name] = value
    for name in ("retry", "callback", "retention"):
        if (value := getattr(spec, name)) is not None:
            fields[name] = asdict(value)
    return orjson.dumps(fields)


def decode_spec(raw: bytes) -> Spec:
    """The inverse of encode_spec; raises InvalidTimerError on anything else."""
    try:
        fields = orjson.loads(raw)
        schedule = _pop_schedule(fields)
        if "retry" in fields:
            fields["retry"] = _retry(**fields["retry"])
        if "callback" in fields:
            fields["callback"] = _callback(**fields["callback"])
        if "retention" in fields:
            fields["retention"] = _retention(**fields["retention"])
        spec = Spec(schedule=schedule, **fields)
        require(str, spec.url, spec.method, *spec.headers.values(), *spec.labels.values())
        require(str, spec.ordering_key or "")
        require(int, spec.timeout_ms or 0)
        if spec.past_due not in {FIRE, SKIP}:
            require(int, spec.past_due)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidTimerError(f"unreadable spec: {type(error).__name__}") from error
    return spec


def _pop_schedule(fields: dict[str, Any]) -> Schedule:
    if "delay_ms" in fields:
        delay_ms = fields.pop("delay_ms")
        require(int, delay_ms)
        return After(delay_ms)
    if "fire_at_ms" in fields:
        fire_at_ms = fields.pop("fire_at_ms")
        require(int, fire_at_ms)
        return At(fire_at_ms)
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


def require(kind: type, *values: object) -> None:
    """Raises TypeError unless all values are exactly of that type."""
    if {kind} != set(map(type, values)):
        raise TypeError
