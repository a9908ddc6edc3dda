"""A merge patch (RFC 7396) on a timer, in the words of a request."""

from http import HTTPStatus
from typing import Any

import orjson

from httpqueue.api.problems import ProblemError
from httpqueue.api.schema.json_body import MAX_BODY_BYTES
from httpqueue.api.schema.read_timer import SCHEDULE_FIELDS, read_content
from httpqueue.api.schema.render import content_of, schedule_of
from httpqueue.timers.schedule import has_offset
from httpqueue.timers.spec import Spec
from httpqueue.webhooks.egress import Egress


def patched(spec: Spec, patch: dict[str, Any], *, now_ms: int, egress: Egress) -> tuple[Spec, bool]:
    """A spec and a merge patch -> (spec, whether the schedule changes); raises ProblemError (413, 422)."""
    reschedules = any(patch.get(name) is not None for name in SCHEDULE_FIELDS if name != "timezone")
    schedule = schedule_of(spec)
    if reschedules:  # the old schedule goes, but a new one in local time keeps the old timezone
        schedule = {"timezone": schedule.get("timezone")} if _is_local(patch) else {}
    members = _merged({**content_of(spec), **schedule}, patch)
    if len(orjson.dumps(members)) > MAX_BODY_BYTES:  # else many patches could make a timer of any size
        raise ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "must not make the timer larger than 1 MiB")
    changed = read_content(members, now_ms=now_ms, egress=egress)
    return changed, reschedules or changed.schedule != spec.schedule


def _is_local(members: dict[str, Any]) -> bool:
    """Whether the schedule is in local time: a cron expression, or a fire_at without an offset."""
    fire_at = members.get("fire_at")
    return members.get("cron") is not None or (isinstance(fire_at, str) and not has_offset(fire_at))


def _merged(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), value)
    return merged
