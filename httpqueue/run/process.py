"""One process of httpqueue, from its settings to its end."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import uvloop

from httpqueue.errors import SettingsError
from httpqueue.run.lifecycle import run_until_signal
from httpqueue.run.limits import allow_many_connections, collect_garbage_less_often
from httpqueue.run.wiring import Source, open_parts
from httpqueue.runtime import logs
from httpqueue.settings import Mode, Settings
from httpqueue.storage.embedded import EmbeddedValkey
from httpqueue.storage.secret_box import SecretBox, key_beside, random_key
from httpqueue.storage.temporary import private_directory


def run(settings: Settings) -> None:
    """Run the parts of the settings' mode until SIGINT or SIGTERM. Raises StartError when it cannot start."""
    logs.configure(settings.log_format, settings.log_level)
    allow_many_connections()
    collect_garbage_less_often()
    with _redis(settings) as source:
        parts = open_parts(settings, source, secrets=SecretBox(_secret_keys(settings)))
        uvloop.run(run_until_signal(parts, mode=settings.mode.value))


def _secret_keys(settings: Settings) -> Sequence[bytes]:
    """What encrypts signing secrets. The embedded server has a key of its own, if the settings have none.

    That key goes on decrypting when there is a setting, so that one can be set at any time.
    """
    if settings.redis_url is not None:
        return settings.secret_keys
    own = random_key() if settings.in_memory else key_beside(settings.data_dir)
    return (*settings.secret_keys, own)


@contextmanager
def _redis(settings: Settings) -> Iterator[Source]:
    """The store's server. Starts the embedded one if there is no other."""
    if settings.redis_url is not None:
        yield Source(settings.redis_url, "Redis at HTTPQUEUE_REDIS_URL")
    elif settings.mode is not Mode.ALL:
        raise SettingsError(
            f"setting HTTPQUEUE_REDIS_URL: `httpqueue {settings.mode}` needs the Redis that all parts share"
        )
    elif settings.in_memory:
        with (
            private_directory() as directory,  # for the server's socket and log
            EmbeddedValkey(directory, persistent=False) as server,
        ):
            yield Source(server.url, "in memory, gone when this ends", server)
    else:
        with EmbeddedValkey(settings.data_dir) as server:
            yield Source(server.url, str(settings.data_dir.absolute()), server)
