"""All metrics. Their names are httpqueue_<what>_<unit>."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

TIMERS_CREATED: Final = Counter("httpqueue_timers_created_total", "Timers stored by POST /timers")
LATENESS: Final = Histogram(
    "httpqueue_lateness_seconds",
    "Attempt start minus due",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 300),
)
ATTEMPTS: Final = Counter("httpqueue_attempts_total", "Attempts that ended, by what they meant", ["outcome"])
IN_FLIGHT: Final = Gauge("httpqueue_attempts_in_flight", "Webhooks being called now")
WAKE_UPS_PUT: Final = Counter(
    "httpqueue_wake_ups_put_total", "Wake-ups put into the queue, by relay pass", ["by"]
)
WAKE_UPS_REFUSED: Final = Counter(
    "httpqueue_wake_ups_refused_total", "Wake-ups that started no attempt, by reason", ["reason"]
)
OUTBOX_UNREADABLE: Final = Counter("httpqueue_outbox_unreadable_total", "Outbox entries that were set aside")
ATTEMPTS_REFUSED: Final = Counter(
    "httpqueue_attempts_refused_total", "Attempts that ended when they were no longer the timer's own"
)
AUDIT_LOST: Final = Counter("httpqueue_audit_lost_total", "Changes that the audit log does not have")
UNAVAILABLE: Final = Counter(
    "httpqueue_redis_unavailable_total", "Calls a Redis server did not serve", ["part"]
)
WAKE_UPS_UNREADABLE: Final = Counter(
    "httpqueue_wake_ups_unreadable_total", "Queue entries that nobody could read; they were dropped"
)
AWAY: Final = Gauge("httpqueue_redis_away", "Parts of this process that a Redis server does not answer now")
BUGS: Final = Counter("httpqueue_bugs_total", "Errors that no part expected; the log has them", ["part"])
