"""Traps on the wire between a process and its Redis: they stop a connection at one command.

With a trap a test knows what a process has done when it dies, and what it has not.
"""

import asyncio
from hashlib import sha1

from httpqueue.storage.scripts import _with_keys


class Trap:
    """Holds the first connection that sends a command, before the server sees it or after it has acted on it.

    The held connection stays open, and neither side hears of the other. All other connections go on.
    """

    def __init__(self, command: bytes, *, after: bool) -> None:
        """after: the server has acted, and its answer is kept back."""
        self._command = command
        self._after = after
        self._tails: dict[object, bytes] = {}
        self._answering: object | None = None
        self._sprung = asyncio.Event()

    @property
    def has_sprung(self) -> bool:
        """Whether a connection is held."""
        return self._sprung.is_set()

    async def sprung(self, timeout_s: float = 60) -> None:
        """Until a connection is held."""
        async with asyncio.timeout(timeout_s):
            await self._sprung.wait()

    def catches(self, link: object, data: bytes, *, is_request: bool) -> bool:
        """Whether to hold this connection from this piece of data on."""
        if self.has_sprung:
            return False
        if is_request:
            text = self._tails.get(link, b"") + data
            self._tails[link] = text[1 - len(self._command) :]  # a command may come in two pieces
            if self._command not in text:
                return False
            self._answering = link if self._after else None
            if self._after:
                return False
        elif self._answering is not link:
            return False
        elif data.startswith(b"-NOSCRIPT"):  # it is called again when the server has the script
            self._answering = None
            return False
        self._sprung.set()
        return True


def script_call(name: str) -> bytes:
    """What is on the wire when that script is called."""
    text, _ = _with_keys(name)
    return sha1(text.encode(), usedforsecurity=False).hexdigest().encode()
