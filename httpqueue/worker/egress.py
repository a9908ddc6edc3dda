"""Chooses where webhooks may go: by the settings, or once for all processes that use the store."""

from typing import Final

import structlog

from httpqueue import clock
from httpqueue.errors import StartError, StartingError
from httpqueue.settings import Settings
from httpqueue.storage.first_use import FirstUse
from httpqueue.webhooks.egress import NOTHING, Egress, EgressMode

DECISION: Final = "egress"
"""The name of the decision in the store."""
ASK_S: Final = 0.5
"""Seconds between two questions of a worker that waits for the API's choice."""

log = structlog.get_logger()


class EgressChoice:
    """Gives the rules as soon as they are chosen."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._egress: Egress | None = None

    def __call__(self) -> Egress:
        """The rules. Raises StartingError before choose() has ended."""
        if self._egress is None:
            raise StartingError("httpqueue is starting and does not know yet where webhooks may go")
        return self._egress

    async def choose(self, first_use: FirstUse, *, has_api: bool) -> None:
        """Choose the mode, and log it. Raises UnavailableError, and StartError if the store's is none.

        Without a setting, the store knows the mode. The first process with an API decides it there, because
        it knows who can reach the API. A process without an API waits for that.
        """
        settings = self._settings
        mode = settings.egress or await self._of_store(first_use, has_api=has_api)
        self._egress = Egress(mode, settings.egress_allow or NOTHING, settings.egress_deny or NOTHING)
        log.info("egress.mode", mode=mode.value, chosen_by="store" if settings.egress is None else "setting")

    async def _of_store(self, first_use: FirstUse, *, has_api: bool) -> EgressMode:
        if has_api:
            return _mode(await first_use.decide(DECISION, _proposed(self._settings)))
        decided = await first_use.read(DECISION)
        if decided is None:
            log.warning("egress.undecided", remedy="start the API, or set HTTPQUEUE_EGRESS")
        while decided is None:
            await clock.sleep(ASK_S)
            decided = await first_use.read(DECISION)
        return _mode(decided)


async def is_private_unasked(settings: Settings, first_use: FirstUse) -> bool:
    """Whether the mode is private although no setting says so. Chooses nothing."""
    return settings.egress is None and await first_use.read(DECISION) == EgressMode.PRIVATE


def _proposed(settings: Settings) -> EgressMode:
    """What to choose for a new store: private if only this machine can reach the store or the API."""
    is_private = settings.redis_url is None or settings.listens_on_loopback
    return EgressMode.PRIVATE if is_private else EgressMode.PUBLIC


def _mode(decided: str) -> EgressMode:
    if decided not in {EgressMode.PUBLIC, EgressMode.PRIVATE}:
        raise StartError(
            f"the store's egress mode in hq:first-use is {decided[:20]!r}, which this version does not know: "
            "set setting `egress` to public or private"
        )
    return EgressMode(decided)
