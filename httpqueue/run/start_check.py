"""The checks before any timer is moved: may this Redis keep timers, and can anybody call the API?"""

from ipaddress import ip_address

import structlog

from httpqueue.api.key_ring import KeyRing
from httpqueue.errors import UnavailableError
from httpqueue.runtime.outage import Outage
from httpqueue.settings import Mode, Settings
from httpqueue.storage.storage import Storage

log = structlog.get_logger()


async def check_start(storage: Storage, api_keys: KeyRing, settings: Settings) -> None:
    """Wait until Redis answers, then check it. Raises StartError when it must not keep timers."""
    outage = Outage("start")
    while True:
        try:
            await storage.check(allow_unsafe=settings.allow_unsafe_redis)
            await _warn_if_open_to_all(api_keys, settings)
        except UnavailableError as error:
            await outage.wait(error)
        else:
            outage.over()
            return


async def _warn_if_open_to_all(api_keys: KeyRing, settings: Settings) -> None:
    serves = settings.mode in {Mode.ALL, Mode.API}
    if serves and not _is_loopback(settings.host) and not await api_keys.exist():
        remedy = "httpqueue keys create, or set HTTPQUEUE_API_KEY"
        log.warning("run.open_to_all", host=settings.host, remedy=remedy)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
