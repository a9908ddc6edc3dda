"""A place in the code where others may listen; without listeners it costs next to nothing."""

from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Signal(Generic[Value]):
    """Tells whoever listens that something has happened: tests, and parts that must not know each other."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[Value], object]] = []

    def listen(self, listener: Callable[[Value], object]) -> None:
        """Call listener at each emit, in the order of listening."""
        self._listeners.append(listener)

    def emit(self, value: Value) -> None:
        """It has happened."""
        for listener in self._listeners:
            listener(value)
