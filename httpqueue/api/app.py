"""The ASGI applications: the whole API, and the probes alone for the metrics port of relay and worker.

Here each operation of the table (schema/operations.py) gets its handler.
"""

from collections.abc import Collection, Mapping

from starlette.types import ASGIApp

from httpqueue.api import docs_ui
from httpqueue.api.audit_trail import AuditTrail
from httpqueue.api.auth import Auth
from httpqueue.api.backend import Backend, Readiness
from httpqueue.api.browser_guard import BrowserGuard
from httpqueue.api.handlers.applications import Applications
from httpqueue.api.handlers.audit import AuditLog
from httpqueue.api.handlers.bulk import Bulk
from httpqueue.api.handlers.clock import Clock
from httpqueue.api.handlers.create_timers import CreateTimers
from httpqueue.api.handlers.destinations import Destinations
from httpqueue.api.handlers.jobs import Jobs
from httpqueue.api.handlers.lists import Lists
from httpqueue.api.handlers.probes import Probes
from httpqueue.api.handlers.timers import Timers
from httpqueue.api.key_ring import KeyRing
from httpqueue.api.problems import Problems
from httpqueue.api.request_body import UnreadBodies
from httpqueue.api.router import Endpoint, Router, endpoint


def create_app(
    backend: Backend,
    *,
    api_keys: KeyRing | None = None,
    rate_limit_per_s: float | None = None,
    allowed_hosts: Collection[str] = (),
    trail: AuditTrail | None = None,
) -> ASGIApp:
    """The whole API. api_keys None: everybody may do everything, as often as they like, from anywhere.

    trail: notes all changes, and is closed by the caller.
    """
    guard = BrowserGuard(allowed_hosts)
    auth = None if api_keys is None else Auth(api_keys, rate_limit_per_s=rate_limit_per_s, guard=guard)
    return UnreadBodies(Problems(Router(handlers_of(backend, trail), auth, trail)))


def create_ops_app(*, readiness: Readiness) -> ASGIApp:
    """The probes /healthz, /readyz and /metrics; all of them are open to everybody."""
    return UnreadBodies(Problems(Router(_probes(readiness))))


def handlers_of(backend: Backend, trail: AuditTrail | None = None) -> dict[str, ASGIApp]:
    """The handlers of all operations, by their names; without a virtual clock, /clock has none."""
    documentation = _asgi(docs_ui.endpoints())
    return _timers(backend) | _settings(backend, trail) | _probes(backend.readiness) | documentation


def _timers(backend: Backend) -> dict[str, ASGIApp]:
    create = CreateTimers(backend)
    timers = Timers(backend)
    lists = Lists(backend.lookup)
    bulk = Bulk(backend)
    jobs = Jobs(backend.jobs)
    return {"createTimer": create.post} | _asgi(
        {
            "createTimers": create.post_batch,
            "listTimers": lists.get,
            "replayTimers": bulk.replay,
            "cancelTimers": bulk.cancel,
            "getJob": jobs.get,
            "cancelJob": jobs.delete,
            "getTimer": timers.get,
            "replaceTimer": timers.put,
            "changeTimer": timers.patch,
            "cancelTimer": timers.delete,
            "listAttempts": timers.attempts,
            "explainTimer": timers.explain,
            "fireTimer": timers.fire,
            "replayTimer": timers.replay,
            "setCallback": timers.put_callback,
        }
    )


def _settings(backend: Backend, trail: AuditTrail | None) -> dict[str, ASGIApp]:
    applications = Applications(backend.policies, backend.jobs)
    destinations = Destinations(backend.policies)
    endpoints: dict[str, Endpoint] = {
        "listApplications": applications.list,
        "getApplication": applications.get,
        "setApplication": applications.put,
        "pauseApplication": applications.pause,
        "resumeApplication": applications.resume,
        "deleteApplication": applications.delete,
        "listDestinations": destinations.list,
        "getDestination": destinations.get,
        "setDestination": destinations.put,
        "resetDestination": destinations.delete,
    }
    if backend.audit is not None:
        endpoints["readAudit"] = AuditLog(backend.audit, trail).get
    if backend.advance is not None:
        clock = Clock(backend.now_ms, backend.advance)
        endpoints |= {"readClock": clock.get, "advanceClock": clock.advance}
    return _asgi(endpoints)


def _probes(readiness: Readiness) -> dict[str, ASGIApp]:
    probes = Probes(readiness)
    return _asgi({"isAlive": probes.healthz, "isReady": probes.readyz, "readMetrics": probes.metrics})


def _asgi(endpoints: Mapping[str, Endpoint]) -> dict[str, ASGIApp]:
    return {name: endpoint(answer) for name, answer in endpoints.items()}
