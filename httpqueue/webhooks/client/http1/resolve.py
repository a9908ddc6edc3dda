"""Resolves host names, so that a name server that does not answer delays its own hosts alone."""

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from ipaddress import ip_address
from threading import Thread
from typing import Final

from httpqueue import clock
from httpqueue.webhooks.egress import IPAddress

Resolver = Callable[[str], Awaitable[Sequence[IPAddress]]]
"""Takes a host name, gives its addresses, the best first. Raises socket.gaierror."""

MAX_LOOKUPS: Final = 64
"""Hosts looked up at the same time; each takes a thread until the system answers."""
FRESH_S: Final = 10.0
"""How long an answer is used again. The system does not tell for how long it is valid."""
MAX_ANSWERS: Final = 4_096
"""Answers kept; the one that was asked for least recently goes first."""


class SystemResolver:
    """Asks the system, which cannot be interrupted and may take many seconds.

    So each lookup has a thread of its own, and calls to one host share it. The thread pools of the event
    loops are too small: a few dead names fill them. The threads are daemons, which a process need not wait
    for when it ends.
    """

    def __init__(self) -> None:
        self._lookups: dict[str, asyncio.Task[Sequence[IPAddress]]] = {}
        self._places = asyncio.Semaphore(MAX_LOOKUPS)

    async def __call__(self, host: str) -> Sequence[IPAddress]:
        """The host's addresses, in the order of RFC 6724. Raises socket.gaierror and UnicodeError."""
        lookup = self._lookups.get(host)
        if lookup is None:
            lookup = self._lookups[host] = asyncio.create_task(self._look_up(host))
            lookup.add_done_callback(lambda _: self._lookups.pop(host))
        return await asyncio.shield(lookup)  # one call that gives up must not end the lookup of the others

    async def _look_up(self, host: str) -> Sequence[IPAddress]:
        async with self._places:
            answer: Future[Sequence[IPAddress]] = Future()
            answer.set_running_or_notify_cancel()  # from now on it cannot be cancelled: the thread sets it
            Thread(target=_ask, args=(host, answer), name=f"resolve {host}", daemon=True).start()
            return await asyncio.wrap_future(answer)


class CachedResolver:
    """Keeps the answers of another resolver for FRESH_S. Failures are not kept."""

    def __init__(self, resolve: Resolver, now_s: Callable[[], float] = clock.monotonic_s) -> None:
        self._resolve = resolve
        self._now_s = now_s
        self._answers: OrderedDict[str, tuple[float, Sequence[IPAddress]]] = OrderedDict()

    async def __call__(self, host: str) -> Sequence[IPAddress]:
        """See Resolver."""
        asked_s, addresses = self._answers.get(host, (None, ()))
        if asked_s is None or self._now_s() - asked_s >= FRESH_S:
            asked_s = self._now_s()
            addresses = await self._resolve(host)
            self._answers[host] = asked_s, addresses
        self._answers.move_to_end(host)
        while len(self._answers) > MAX_ANSWERS:
            self._answers.popitem(last=False)
        return addresses


def _ask(host: str, answer: Future[Sequence[IPAddress]]) -> None:
    try:
        answer.set_result(addresses_of(host))
    except Exception as error:  # noqa: BLE001 - it is raised in the event loop
        answer.set_exception(error)


def addresses_of(host: str) -> Sequence[IPAddress]:
    """Ask the system and wait for its answer."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ip_address(address[0]) for *_, address in found))
