"""The checks before any timer is moved: may this Redis keep timers, who can call, and whom may we call?"""

import structlog

from httpqueue.api.key_ring import KeyRing
from httpqueue.errors import UnavailableError
from httpqueue.runtime.outage import Outage
from httpqueue.settings import Mode, Settings
from httpqueue.storage.storage import Storage
from httpqueue.webhooks.egress import EgressMode
from httpqueue.worker.egress import EgressChoice

log = structlog.get_logger()


async def check_start(storage: Storage, api_keys: KeyRing, egress: EgressChoice, settings: Settings) -> None:
    """Wait until Redis answers, then check it, and choose where webhooks may go.

    Raises StartError when this Redis must not keep timers.
    """
    outage = Outage("start")
    while True:
        try:
            await storage.check(allow_unsafe=settings.allow_unsafe_redis)
            if settings.mode is not Mode.RELAY:  # it signs nothing
                await storage.policies.check_secrets(reseals=settings.has_api)
            await _choose_egress(storage, egress, settings)
            await _warn_of_keys(api_keys, egress, settings)
        except UnavailableError as error:
            await outage.wait(error)
        else:
            outage.over()
            return


async def _choose_egress(storage: Storage, egress: EgressChoice, settings: Settings) -> None:
    if settings.mode is not Mode.RELAY:  # it neither takes URLs nor calls them
        await egress.choose(storage.first_use, has_api=settings.has_api)


async def _warn_of_keys(api_keys: KeyRing, egress: EgressChoice, settings: Settings) -> None:
    """Warn if nobody can use the API, or strangers may, or may make it call private addresses."""
    if not settings.has_api:
        return
    if not await api_keys.exist():
        remedy = "httpqueue keys create, or set HTTPQUEUE_API_KEY"
        if settings.needs_key:
            log.warning("run.no_keys", host=settings.host, remedy=remedy)
        elif not settings.listens_on_loopback:
            log.warning("run.open_to_all", host=settings.host, remedy=remedy)
    elif not settings.listens_on_loopback and settings.egress is None and egress().mode is EgressMode.PRIVATE:
        remedy = "set HTTPQUEUE_EGRESS to public, or to private if that is what you want"
        log.warning("egress.private", host=settings.host, remedy=remedy)
