"""Nonces: what tells the lives of a name apart. See docs/adr/0017."""

from base64 import urlsafe_b64encode

from httpqueue.clock import now_ms


class Nonces:
    """Draws nonces. A nonce tells a timer from a later one with the same name.

    A nonce is a time in ms, and each is later than the one before it in this process. Random nonces of seven
    characters would repeat when a name is used very often.
    """

    def __init__(self) -> None:
        self._last = 0

    def draw(self) -> str:
        """Seven URL-safe characters."""
        self._last = max(self._last + 1, now_ms())
        return urlsafe_b64encode(self._last.to_bytes(6, "big")).decode()[1:]
