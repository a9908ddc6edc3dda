"""The store, the truth about every timer; all that it asks of Redis is in this package."""

from httpqueue.store.timers import Store, open_store

__all__ = ["Store", "open_store"]
