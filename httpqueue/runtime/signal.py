"""An event of the code that other code, or a test, can listen to."""

from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Signal(Generic[Value]):
    """Calls its listeners at each emit."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[Value], object]] = []

    def listen(self, listener: Callable[[Value], object]) -> None:
        """Add a listener. Listeners are called in the order in which they were added."""
        self._listeners.append(listener)

    def emit(self, value: Value) -> None:
        """Call all listeners with this value."""
        for listener in self._listeners:
            listener(value)
