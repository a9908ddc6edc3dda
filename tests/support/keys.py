"""The keys of the only partition, for tests that look into Redis."""

from httpqueue.storage.keys import queue_keys, store_keys

STORE = store_keys()
QUEUE = queue_keys()
