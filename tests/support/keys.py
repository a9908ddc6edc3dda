"""The keys of the only partition, for tests that look into Redis."""

from httpqueue.storage.keys import queue_keys, store_keys
from httpqueue.timers.names import DEFAULT_APPLICATION
from httpqueue.timers.timer import State

STORE = store_keys()
QUEUE = queue_keys()
DUE = STORE.due + DEFAULT_APPLICATION
"""Timers of the default application that wait for nothing but time."""
HELD = STORE.held + DEFAULT_APPLICATION
"""Those that run, or wait for a lane, a line or a reserved start."""


def ended(state: State, application: str = DEFAULT_APPLICATION) -> str:
    """An application's timers that ended in that state and have a record."""
    return f"{STORE.ended}{state.letter}:{application}"
